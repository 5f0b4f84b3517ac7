// Package tinymodel writes a language model of half a megabyte: real enough for a real inference engine to load and run, small
// enough that it does so at once. Its weights are random, so what it says is nonsense, but for one seed always the same nonsense.
package tinymodel

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
)

// The shape: llama's architecture, small.
const (
	layers  = 2
	width   = 64
	heads   = 4
	hidden  = 160 // width of the feed-forward part
	context = 2048
)

// Write writes the model as a GGUF file. Its bytes depend on the seed alone, not on the machine. The errors are w's.
func Write(w io.Writer, seed uint64) error {
	words := vocabulary()
	random := rand.New(rand.NewPCG(seed, 0))

	var g gguf
	describe(&g, words)
	g.tensor("token_embd.weight", weights(random, 1, len(words)*width), width, len(words))
	for i := range layers {
		layer(&g, random, fmt.Sprintf("blk.%d.", i))
	}
	g.tensor("output_norm.weight", ones(width), width)
	g.tensor("output.weight", voice(random, words), width, len(words))

	_, err := w.Write(g.bytes())
	return err
}

// describe says what the model is, in the keys that llama.cpp wants of a llama.
func describe(g *gguf, words []word) {
	g.set("general.architecture", "llama")
	g.set("general.name", "tiny")
	g.set("general.file_type", uint32(0)) // all f32
	g.set("llama.context_length", uint32(context))
	g.set("llama.embedding_length", uint32(width))
	g.set("llama.block_count", uint32(layers))
	g.set("llama.feed_forward_length", uint32(hidden))
	g.set("llama.attention.head_count", uint32(heads))
	g.set("llama.attention.head_count_kv", uint32(heads))
	g.set("llama.attention.layer_norm_rms_epsilon", float32(1e-5))
	g.set("llama.rope.dimension_count", uint32(width/heads))
	g.set("llama.vocab_size", uint32(len(words)))

	texts, scores, kinds := make([]string, len(words)), make([]float32, len(words)), make([]int32, len(words))
	for i, w := range words {
		texts[i], kinds[i] = w.text, w.kind
	}
	g.set("tokenizer.ggml.model", "llama") // SentencePiece
	g.set("tokenizer.ggml.tokens", texts)
	g.set("tokenizer.ggml.scores", scores)
	g.set("tokenizer.ggml.token_type", kinds)
	g.set("tokenizer.ggml.unknown_token_id", uint32(unknownID))
	g.set("tokenizer.ggml.bos_token_id", uint32(beginID))
	g.set("tokenizer.ggml.eos_token_id", uint32(endID))
	g.set("tokenizer.ggml.add_space_prefix", false)
}

// layer adds one transformer layer. Weights of 1/√inputs keep what passes through at its size.
func layer(g *gguf, random *rand.Rand, prefix string) {
	matrix := func(name string, in, out int) {
		g.tensor(prefix+name, weights(random, 1/math.Sqrt(float64(in)), in*out), in, out)
	}
	g.tensor(prefix+"attn_norm.weight", ones(width), width)
	matrix("attn_q.weight", width, width)
	matrix("attn_k.weight", width, width)
	matrix("attn_v.weight", width, width)
	matrix("attn_output.weight", width, width)
	g.tensor(prefix+"ffn_norm.weight", ones(width), width)
	matrix("ffn_gate.weight", width, hidden)
	matrix("ffn_up.weight", width, hidden)
	matrix("ffn_down.weight", hidden, width)
}

// voice is the matrix that turns a state into the next word. Only printable ASCII has weights in it: each token is a
// character that one can read, and the end of the text is not among them, so an answer is as long as was asked for.
func voice(random *rand.Rand, words []word) []float32 {
	rows := make([]float32, len(words)*width)
	printable := rows[(byteID+' ')*width : (byteID+'~'+1)*width]
	copy(printable, weights(random, 0.5, len(printable)))
	return rows
}

// weights gives n random numbers with the standard deviation sigma. They are uniform because that takes no arithmetic that two
// processors could round differently.
func weights(random *rand.Rand, sigma float64, n int) []float32 {
	reach := float32(sigma * math.Sqrt(3))
	xs := make([]float32, n)
	for i := range xs {
		xs[i] = (2*random.Float32() - 1) * reach
	}
	return xs
}

func ones(n int) []float32 {
	xs := make([]float32, n)
	for i := range xs {
		xs[i] = 1
	}
	return xs
}

// word is one entry of the vocabulary.
type word struct {
	text string
	kind int32
}

// The kinds of words, as GGUF counts them.
const (
	unknownWord int32 = 2
	controlWord int32 = 3
	byteWord    int32 = 6
)

// Where which word is; byteID is the first of 256.
const (
	unknownID = iota
	beginID
	endID
	byteID
)

// vocabulary is the least that SentencePiece works with: its three marks, and a word for each byte.
func vocabulary() []word {
	words := []word{unknownID: {"<unk>", unknownWord}, beginID: {"<s>", controlWord}, endID: {"</s>", controlWord}}
	for b := range 256 {
		words = append(words, word{fmt.Sprintf("<0x%02X>", b), byteWord})
	}
	return words
}
