package keys

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
)

// Read reads keys, one JSON object on each line; empty lines and those that begin with # are nothing. Its error names the line.
func Read(in io.Reader) ([]Key, error) { return (&Reader{}).Read(in) }

// Reader reads keys again and again. Lines that it has read before cost it little, so that one key of many is revoked at once.
type Reader struct {
	known map[string]*line // by what stands there
	times int              // it has read
}

// line is one with a key.
type line struct {
	text  string
	key   Key
	read  int // when it was last seen: at which of the reader's times
	where int // on which line, from 1
}

// Read is like the function Read.
func (r *Reader) Read(in io.Reader) ([]Key, error) {
	r.times++
	all := make([]*line, 0, len(r.known))
	var fresh []*line
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 || text[0] == '#' {
			continue
		}
		l := r.known[string(text)]
		switch {
		case l == nil:
			k, err := Parse(text)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			l = &line{text: string(text), key: k}
			fresh = append(fresh, l)
		case l.read == r.times:
			return nil, fmt.Errorf("line %d: the key %s is on line %d already", n, l.key.ID, l.where)
		}
		l.read, l.where = r.times, n
		if all = append(all, l); len(all) > maxKeys {
			return nil, fmt.Errorf("line %d: there are more than %d keys", n, maxKeys)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("after %d keys: %w", len(all), err)
	}
	if len(fresh) > 0 { // those of before have nothing in common
		if err := unique(all); err != nil {
			return nil, err
		}
	}
	r.keep(fresh)
	keys := make([]Key, len(all))
	for i, l := range all {
		keys[i] = l.key
	}
	return keys, nil
}

// keep remembers the lines that were just read.
func (r *Reader) keep(fresh []*line) {
	if r.known == nil {
		r.known = make(map[string]*line, len(fresh))
	}
	for _, l := range fresh {
		r.known[l.text] = l
	}
	maps.DeleteFunc(r.known, func(_ string, l *line) bool { return l.read != r.times })
}

// unique says which of the keys may not be there beside another.
func unique(all []*line) error {
	ids, shown := make(map[string]*line, len(all)), make(map[string]*line, len(all))
	for _, l := range all {
		if before := ids[l.key.ID]; before != nil {
			return fmt.Errorf("line %d: the key %s is on line %d already", l.where, l.key.ID, before.where)
		}
		shows := cmp.Or(l.key.Certificate, l.key.Hash)
		if before := shown[shows]; before != nil {
			return fmt.Errorf("line %d: the key %s is the same as on line %d", l.where, l.key.ID, before.where)
		}
		ids[l.key.ID], shown[shows] = l, l
	}
	return nil
}

// ReadFile reads a file of keys.
func ReadFile(file string) ([]Key, error) { return (&Reader{}).ReadFile(file) }

// ReadFile is like the function ReadFile.
func (r *Reader) ReadFile(file string) ([]Key, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read the API keys: %w", err)
	}
	defer f.Close()
	all, err := r.Read(f)
	if err != nil {
		return nil, fmt.Errorf("read the API keys in %s: %w", file, err)
	}
	return all, nil
}
