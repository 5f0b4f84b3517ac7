package router

import (
	"fmt"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Prefix is how a prompt begins: keys of its beginnings, from the shortest to the longest, that are equal where those are. 0 is no key:
// the prompt is shorter. A conversation that goes on keeps its first keys and gets more.
type Prefix [3]uint64

// maxPrefixes is how many beginnings are remembered for each model.
const maxPrefixes = 16384

// prefixes remembers which backend was last sent a prompt that began in some way. The zero value remembers nothing yet. It is
// guarded by its line's mutex.
type prefixes struct {
	of *simplelru.LRU[uint64, *Candidate]
}

// find is who was sent the longest of the beginnings; nil: nobody.
func (p *prefixes) find(prefix Prefix) *Candidate {
	if p.of == nil {
		return nil
	}
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] == 0 {
			continue
		}
		if c, ok := p.of.Get(prefix[i]); ok {
			return c
		}
	}
	return nil
}

// note remembers who is sent all of the beginnings.
func (p *prefixes) note(prefix Prefix, c *Candidate) {
	if prefix[0] == 0 {
		return
	}
	if p.of == nil {
		var err error
		if p.of, err = simplelru.NewLRU[uint64, *Candidate](maxPrefixes, nil); err != nil {
			panic(fmt.Sprintf("BUG: %v", err))
		}
	}
	for _, key := range prefix {
		if key != 0 {
			p.of.Add(key, c)
		}
	}
}
