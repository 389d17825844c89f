"""Contrastive data: pairs, sets of them, and the formats in which the field shares them."""

from steerlens.data.audit import ContrastReport as ContrastReport
from steerlens.data.contrast_set import ContrastSet as ContrastSet
from steerlens.data.contrast_set import Split as Split
from steerlens.data.formats.chat import ChatPrompt as ChatPrompt
from steerlens.data.formats.chat import ChatTokenizer as ChatTokenizer
from steerlens.data.formats.chat import chat_prompt as chat_prompt
from steerlens.data.formats.chat import render_chat as render_chat
from steerlens.data.formats.text import ContrastError as ContrastError
from steerlens.data.pair import ContrastPair as ContrastPair
