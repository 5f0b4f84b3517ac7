package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Problem is one mistake in a file.
type Problem struct {
	File   string
	Line   int // from 1; 0 for a problem of the whole file
	Column int // in characters, from 1
	Text   string
	Source string // the line, without its break; a value that looks like a secret is masked
}

// String is the problem as a person reads it, its line and a caret below.
func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Text
	}
	head := fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
	if p.Source == "" {
		return head
	}
	source, indent := window(p.Source, p.Column-1)
	return fmt.Sprintf("%s\n%6d | %s\n       | %s^", head, p.Line, source, indent)
}

// Problems are all mistakes in a file, in the order of their places. It is the error of Parse and Load.
type Problems []Problem

// maxShown bounds what Error prints; beyond it a file is wrong as a whole.
const maxShown = 50

// Error is every problem, at most 50, and how many more there are.
func (ps Problems) Error() string {
	shown := ps[:min(len(ps), maxShown)]
	lines := make([]string, len(shown), len(shown)+1)
	for i, p := range shown {
		lines[i] = p.String()
	}
	if more := len(ps) - len(shown); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(lines, "\n")
}

// sorted puts the problems in order and drops repetitions, which an alias that is used twice causes.
func (ps Problems) sorted() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Text, b.Text))
	})
	return slices.Compact(ps)
}

// window cuts a long line to what surrounds column (from 0) and gives what to print below it up to that column: tabs
// under tabs, nothing under marks that take no room, two cells under wide characters.
func window(line string, column int) (shown, indent string) {
	const before, after = 80, 40
	runes := []rune(line)
	column = min(column, len(runes))
	from, to := 0, len(runes)
	if len(runes) > before+after {
		from, to = max(0, column-before), min(len(runes), column+after)
	}
	for _, r := range runes[from:column] {
		indent += blank(r)
	}
	shown = string(runes[from:to])
	if from > 0 {
		shown, indent = "…"+shown, " "+indent
	}
	if to < len(runes) {
		shown += "…"
	}
	return shown, indent
}

// blank is as wide as r on a terminal.
func blank(r rune) string {
	switch {
	case r == '\t':
		return "\t"
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return ""
	case unicode.In(r, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana),
		r >= 0xFF01 && r <= 0xFF60, r >= 0x1F300 && r <= 0x1FAFF:
		return "  "
	}
	return " "
}

// quote is s as a message shows it: on one line and not too long.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strconv.Quote(s)
}

// suggest ends a sentence about a word that is not among the known ones.
func suggest(word string, known []string) string {
	if near := nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "known are " + strings.Join(known, ", ")
}

// nearest is the known word that word is most likely a slip of, "" if it is like none.
func nearest(word string, known []string) string {
	if len(word) > 40 {
		return ""
	}
	best, least := "", 1+max(1, len(word)/3)
	for _, k := range known {
		if d := distance(strings.ToLower(word), k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is how many bytes must be added, dropped or changed to make a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// secret replaces a value that must not be seen.
const secret = "<secret>"

// looksSecret tells whether the value of an environment variable should not be seen.
func looksSecret(key string) bool {
	key = strings.ReplaceAll(strings.ToUpper(key), "TOKENIZER", "") // TOKENIZERS_PARALLELISM is none
	return slices.ContainsFunc([]string{"TOKEN", "KEY", "SECRET", "PASSWORD"}, func(word string) bool {
		return strings.Contains(key, word)
	})
}

var keyOfValue = regexp.MustCompile(`([A-Za-z0-9_-]+)["']?[ \t]*:[ \t]+`)

// harmless is a line of the file as it may be shown and logged: what follows a key that looks like a secret is masked,
// and control characters cannot reach a terminal.
func harmless(line string) string {
	for _, m := range keyOfValue.FindAllStringSubmatchIndex(line, -1) {
		key := line[m[2]:m[3]]
		if looksSecret(key) && key != "secret_env" && key != "key_file" && m[1] < len(line) { // those hold paths
			line = line[:m[1]] + secret
			break
		}
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, line)
}
