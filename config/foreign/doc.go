// Package foreign turns what other programs know of models into a configuration of ours: the file of llama-swap, and the models of a
// running Ollama. What cannot be taken over is said, next to where it would stand, and never dropped in silence.
package foreign
