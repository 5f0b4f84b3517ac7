package config

import (
	"iter"

	"go.yaml.in/yaml/v4"
)

// The bounds on what a file expands to. Aliases of aliases could make a small file endless.
const (
	maxPlaces = 100_000
	maxDepth  = 64
)

// A place is one value in the file: what decoding reads and problems point at. Aliases and merge keys are resolved in
// it, so a value that is used twice has two places with one position.
type place struct {
	doc  *document
	key  *yaml.Node // the key it stands under; nil in a list and at the top
	node *yaml.Node // never an alias
	in   []*place   // of a mapping, in the order of the file, or of a list
	bad  bool       // it does not have the form it must have; its meaning is not looked at
}

// place makes the places of node and of all below it.
func (d *document) place(key, node *yaml.Node, depth int) *place {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	p := &place{doc: d, key: key, node: node}
	d.places++
	if d.places > maxPlaces || depth > maxDepth {
		if !d.tooMuch {
			d.problemAt(p.mark(), "the file expands to more than %d values or %d levels; does an alias hold itself?", maxPlaces, maxDepth)
		}
		d.tooMuch = true
		return p
	}
	if node.Style&yaml.TaggedStyle != 0 {
		d.problemAt(node, "the tag %s has no meaning here; leave it out", quote(node.Tag))
	}
	switch node.Kind {
	case yaml.SequenceNode:
		for _, item := range node.Content {
			if d.tooMuch {
				break
			}
			p.in = append(p.in, d.place(nil, item, depth+1))
		}
	case yaml.MappingNode:
		p.addPairs(depth)
	}
	return p
}

// addPairs fills a mapping: first its own pairs, then what merge keys (<<) bring and it does not have.
func (p *place) addPairs(depth int) {
	lines := map[string]int{} // of the keys
	var merged []*yaml.Node
	for i := 0; i < len(p.node.Content) && !p.doc.tooMuch; i += 2 {
		key, value := p.node.Content[i], p.node.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		line, twice := lines[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode:
			p.doc.problemAt(key, "a key must be one word or text")
		case key.Tag == "!!merge":
			merged = append(merged, value)
		case twice:
			p.doc.problemAt(key, "%s is given twice; the first is on line %d", quote(key.Value), line)
		default:
			lines[key.Value] = key.Line
			p.in = append(p.in, p.doc.place(key, value, depth+1))
		}
	}
	for _, value := range merged {
		for _, from := range p.doc.place(nil, value, depth+1).mappings() {
			for _, pair := range from.in {
				if _, has := lines[pair.key.Value]; !has {
					lines[pair.key.Value] = pair.key.Line
					p.in = append(p.in, pair)
				}
			}
		}
	}
}

// mappings are what a merge key takes: one mapping, or a list of them.
func (p *place) mappings() []*place {
	all := []*place{p}
	if p.node.Kind == yaml.SequenceNode {
		all = p.in
	}
	for _, m := range all {
		if m.node.Kind != yaml.MappingNode {
			p.doc.problemAt(m.node, "<< takes a mapping or a list of mappings")
			return nil
		}
	}
	return all
}

// get is the place of a key in a mapping, nil if it is not given.
func (p *place) get(key string) *place {
	if p.node.Kind != yaml.MappingNode {
		return nil
	}
	for _, pair := range p.in {
		if pair.key.Value == key {
			return pair
		}
	}
	return nil
}

// below is where to point for a key, or the key in that: its place, or the place that lacks it.
func (p *place) below(keys ...string) *place {
	for _, key := range keys {
		if below := p.get(key); below != nil {
			p = below
		}
	}
	return p
}

// item is the place of a list's i-th item.
func (p *place) item(i int) *place {
	if p.node.Kind != yaml.SequenceNode {
		return p
	}
	return p.in[i]
}

// problemIn is a problem of a key that is given; what a missing key means has been said already.
func (p *place) problemIn(key, format string, args ...any) {
	if at := p.get(key); at != nil {
		at.problem(format, args...)
	}
}

// problem notes that the meaning is wrong, unless the form is already.
func (p *place) problem(format string, args ...any) {
	if !p.bad {
		p.doc.problemAt(p.mark(), format, args...)
	}
}

// malformed notes that the form is wrong.
func (p *place) malformed(format string, args ...any) {
	p.problem(format, args...)
	p.bad = true
}

// mark is the node that a caret points at: a text itself, but the key of anything larger, or of nothing.
func (p *place) mark() *yaml.Node {
	if p.key != nil && (p.node.Kind != yaml.ScalarNode || isNull(p.node)) {
		return p.key
	}
	return p.node
}

// name is what a message calls the place.
func (p *place) name() string {
	switch {
	case p.key != nil:
		return quote(p.key.Value)
	case p == p.doc.root:
		return "the file"
	}
	return "an item of this list"
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// models are the places of the models, by name, in the order of the file.
func (p *place) models() iter.Seq2[string, *place] {
	return func(yield func(string, *place) bool) {
		models := p.get("models")
		if models == nil {
			return
		}
		for _, m := range models.in {
			if m.key != nil && !yield(m.key.Value, m) {
				return
			}
		}
	}
}

// pairs are the places in a mapping, none if it is something else.
func (p *place) pairs() []*place {
	if p.node.Kind != yaml.MappingNode {
		return nil
	}
	return p.in
}
