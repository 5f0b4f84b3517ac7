package proxy

import (
	"hash/maphash"

	"pilotlight/router"
)

// beginnings are how many bytes of a prompt each key of its prefix is made of: a system prompt, that and the first words, a
// conversation. As tokens they are some 60, 250 and 1,000.
func beginnings() [3]int { return [3]int{256, 1024, 4096} }

// prefix is how the request's prompt begins, where that could decide which backend gets it.
func (v *visit) prefix() (keys router.Prefix) {
	prompt := v.ask.prompt.of(v.ask.came.body)
	if len(prompt) < beginnings()[0] {
		return keys
	}
	if m, ok := v.edge.router.Model(v.ask.model); !ok || len(m.Backends) < 2 {
		return keys
	}
	for i, n := range beginnings() {
		if len(prompt) >= n {
			keys[i] = max(maphash.Bytes(v.edge.seed, prompt[:n]), 1)
		}
	}
	return keys
}
