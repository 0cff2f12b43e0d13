from .hypermodel import StackHyperModel as StackHyperModel
