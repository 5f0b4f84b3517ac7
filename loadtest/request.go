package loadtest

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"
)

// Request is one that a load sends.
type Request struct {
	At     time.Duration // when it is to begin, after the load did
	Model  string
	Prompt int      // tokens
	Answer int      // tokens that it may have at most; 0: it does not say
	Blocks []uint64 // with which the prompt begins, of 512 tokens each: the same numbers, the same text
	Seed   uint64   // of the rest of the prompt: the same seed, the same text
}

// A token of a prompt is four bytes: three letters and a space, which is a word to most tokenizers too.
const (
	tokenBytes = 4
	blockWords = 512
	blockBytes = blockWords * tokenBytes
)

// words are what prompts are made of. All have three letters.
var words = strings.Fields("the sun and fox ran out old cat sat mat big red dog saw sky hot tea cup day low key box " +
	"map sea ice oak pen ink ash bee elk fig gem hay ivy jar kit lid mud net owl pig rib tin urn van web yak zoo")

// prose is the text of a prompt, made while it is read: a thousand requests with long prompts hold a thousand blocks, not their texts.
type prose struct {
	r     *Request
	read  int // bytes
	block []byte
}

// Read is an io.Reader.
func (p *prose) Read(b []byte) (int, error) {
	if p.read >= p.r.Prompt*tokenBytes {
		return 0, io.EOF
	}
	if p.read%blockBytes == 0 {
		p.fill()
	}
	n := copy(b, p.block[p.read%blockBytes:min(blockBytes, p.read%blockBytes+p.r.Prompt*tokenBytes-p.read)])
	p.read += n
	return n, nil
}

// fill writes the block that is read next.
func (p *prose) fill() {
	n := p.read / blockBytes
	random := rand.New(rand.NewPCG(p.r.Seed, uint64(n)+1))
	if n < len(p.r.Blocks) {
		random = rand.New(rand.NewPCG(p.r.Blocks[n], 0))
	}
	p.block = p.block[:0]
	for range blockWords {
		p.block = append(append(p.block, words[random.IntN(len(words))]...), ' ')
	}
}

// chat is the body of a chat completion around its prompt.
func (s *Shape) chat(r *Request) (head, tail string, err error) {
	model, err := json.Marshal(r.Model)
	if err != nil {
		return "", "", fmt.Errorf("name the model: %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `{"model":%s`, model)
	if s.Stream {
		b.WriteString(`,"stream":true`)
	}
	if r.Answer > 0 {
		fmt.Fprintf(&b, `,"max_tokens":%d`, r.Answer)
		if s.Exact {
			b.WriteString(`,"ignore_eos":true`)
		}
	}
	b.WriteString(`,"messages":[{"role":"user","content":"`)
	return b.String(), `"}]}`, nil
}

// body is what is sent, and how long it is. It can be read again and again.
func (s *Shape) body(r *Request) (open func() io.Reader, size int64, err error) {
	if s.Body != nil {
		return func() io.Reader { return strings.NewReader(string(s.Body)) }, int64(len(s.Body)), nil
	}
	head, tail, err := s.chat(r)
	if err != nil {
		return nil, 0, err
	}
	open = func() io.Reader {
		return io.MultiReader(strings.NewReader(head), &prose{r: r}, strings.NewReader(tail))
	}
	return open, int64(len(head) + r.Prompt*tokenBytes + len(tail)), nil
}
