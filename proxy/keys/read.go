package keys

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
)

// Read reads keys, one JSON object on each line; empty lines and those that begin with # are nothing. Its error names the line.
func Read(in io.Reader) ([]Key, error) { return (&Reader{}).Read(in) }

// Reader reads keys again and again. Lines that it has read before cost it little, so that one key of many is revoked at once.
type Reader struct {
	known map[string]*line // by what stands there
}

type line struct {
	text string
	key  Key
}

// Read is like the function Read.
func (r *Reader) Read(in io.Reader) ([]Key, error) {
	all := make([]Key, 0, len(r.known))
	known := make(map[string]*line, len(r.known))
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	seen := unique{make(map[string]int, len(r.known)), make(map[string]int, len(r.known))}
	for n := 1; lines.Scan(); n++ {
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 || text[0] == '#' {
			continue
		}
		l := r.known[string(text)]
		if l == nil {
			k, err := Parse(text)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			l = &line{string(text), k}
		}
		if err := seen.add(&l.key, n); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		known[l.text] = l
		all = append(all, l.key)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("after %d keys: %w", len(all), err)
	}
	r.known = known
	return all, nil
}

// unique are the lines of keys by their IDs and by what they show.
type unique struct{ ids, shown map[string]int }

// add notes the key of a line. The error says why it may not be there.
func (u *unique) add(k *Key, line int) error {
	shows := k.Hash
	if k.Certificate != "" {
		shows = k.Certificate
	}
	if before, twice := u.ids[k.ID]; twice {
		return fmt.Errorf("the key %s is on line %d already", k.ID, before)
	}
	if before, twice := u.shown[shows]; twice {
		return fmt.Errorf("the key %s is the same as on line %d", k.ID, before)
	}
	if u.ids[k.ID], u.shown[shows] = line, line; len(u.ids) > maxKeys {
		return fmt.Errorf("there are more than %d keys", maxKeys)
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
