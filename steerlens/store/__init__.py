"""Files that are whole or not there, that state what they are, and that notice their damage.

files (atomic writing, errors that explain), documents (JSON), tensors (safetensors), checksums (of
folders whose formats belong to others), cells (finished units of work), run_folder (one process at
a time, the marker of a finished run), stopping (SIGTERM).
"""
