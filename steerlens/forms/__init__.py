"""What can be trained, one kind in a file."""

from steerlens.forms.form import Form as Form
from steerlens.forms.vector_form import VectorForm as VectorForm
