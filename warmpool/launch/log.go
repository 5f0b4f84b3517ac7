package launch

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

const (
	maxLog    = 64 << 20 // bytes; then the log is moved to .1, and begins anew
	trimPause = 30 * time.Second
	logTail   = 64 << 10 // bytes at its end that are looked through
	maxLine   = 300      // bytes of a line that are repeated in an error
)

// trimLog keeps the log within its bound for as long as the process lives.
func (l *Launcher) trimLog(c *child) {
	ticker := time.NewTicker(trimPause)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := trim(c.log, maxLog); err != nil {
				l.log.Warn("a model server's log cannot be bounded", "path", c.log, "error", err)
			}
		case <-c.ended:
			return
		case <-l.closing:
			return
		}
	}
}

// trim moves a log that is larger than limit to .1, but for what is older than its last limit bytes. The process writes on
// at the new end, for its log is open for appending; what it writes between copy and cut is lost.
func trim(path string, limit int64) error {
	log, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // it was written by others
	info, err := log.Stat()
	if err != nil || info.Size() <= limit {
		return err
	}
	old, err := os.Create(path + ".1.new")
	if err != nil {
		return err
	}
	if _, err := io.Copy(old, io.NewSectionReader(log, info.Size()-limit, limit)); err != nil {
		_ = old.Close()
		return err
	}
	if err := old.Close(); err != nil {
		return err
	}
	if err := os.Rename(path+".1.new", path+".1"); err != nil {
		return err
	}
	return log.Truncate(0)
}

// tail reads the end of a log, but nothing before from.
func tail(path string, from int64) ([]byte, error) {
	log, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // it was only read
	info, err := log.Stat()
	if err != nil {
		return nil, err
	}
	if from > info.Size() {
		from = 0 // it was trimmed meanwhile
	}
	from = max(from, info.Size()-logTail)
	return io.ReadAll(io.NewSectionReader(log, from, info.Size()-from))
}

var (
	looksBad = regexp.MustCompile(`(?i)error|exception|panic|fatal|fail|cannot|can't|unable|out of memory|not found|no such|denied|in use`)
	escapes  = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`)
)

// causeIn is the line of a log, from a position on, that is the likeliest cause of an end: the last that looks bad, else
// the last of all. It is empty where the log is.
func causeIn(path string, from int64) string {
	text, err := tail(path, from)
	if err != nil {
		return fmt.Sprintf("(its log cannot be read: %v)", err)
	}
	return causeOf(text)
}

func causeOf(text []byte) string {
	last := ""
	lines := bytes.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	for _, text := range slices.Backward(lines) {
		line := readable(text)
		if looksBad.MatchString(line) {
			return line
		}
		if last == "" {
			last = line
		}
	}
	return last
}

// readable is a line without colours and other control characters, cut to what an error can hold.
func readable(line []byte) string {
	s := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, escapes.ReplaceAllString(string(line), ""))
	s = strings.TrimSpace(s)
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "..."
	}
	return s
}
