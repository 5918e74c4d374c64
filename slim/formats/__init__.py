"""The formats of other programs: what Hugging Face's transformers, llama.cpp and llama2.c open."""
