package proxy

import (
	"bytes"
	"errors"
	"mime"
)

// The bounds of a multipart body: how many parts it may have, how long one's header and the boundary may be.
const (
	maxParts    = 1000
	maxPartHead = 8 << 10
	maxBoundary = 70 // RFC 2046
)

// scanForm finds the fields of a multipart/form-data body. It jumps from boundary to boundary, so that what files hold is
// looked at once and copied never. Like scan it takes only one field "model".
func scanForm(src []byte, contentType string) (fields, error) {
	_, params, err := mime.ParseMediaType(contentType)
	boundary := params["boundary"]
	if err != nil || boundary == "" || len(boundary) > maxBoundary {
		return fields{}, errors.New("the Content-Type of a multipart body must give its boundary, of 1 to 70 characters")
	}
	s := formScanner{src: src, delimiter: []byte("\r\n--" + boundary)}
	return s.scan()
}

type formScanner struct {
	src       []byte
	delimiter []byte // with the line end before it, which belongs to it
	at        int
}

func (s *formScanner) fail(want string) error { return &malformed{"multipart body", s.at, want} }

func (s *formScanner) scan() (found fields, err error) {
	if first := s.delimiter[len("\r\n"):]; bytes.HasPrefix(s.src, first) {
		s.at = len(first)
	} else if _, err := s.past(s.delimiter, len(s.src), "a boundary"); err != nil {
		return found, err
	}
	for range maxParts {
		if bytes.HasPrefix(s.src[s.at:], []byte("--")) {
			return found, nil
		}
		name, err := s.head()
		if err != nil {
			return found, err
		}
		from := s.at
		s.at -= len("\r\n") // where nothing is in the part, the end of its header is the boundary's line end
		to, err := s.past(s.delimiter, len(s.src), "a closing boundary")
		if err != nil {
			return found, err
		}
		content := span{from, max(from, to)}
		switch name {
		case "model":
			if found.model.to > 0 {
				return found, errors.New(`the form has "model" twice; which one counts is anybody's guess`)
			}
			found.model = content
		case "stream":
			found.stream = is(content.of(s.src), "true")
		}
	}
	return found, s.fail("no more than 1000 parts")
}

// past goes past the next mark, which must end before a limit, and says where it began.
func (s *formScanner) past(mark []byte, limit int, want string) (int, error) {
	i := bytes.Index(s.src[s.at:min(limit, len(s.src))], mark)
	if i < 0 {
		return 0, s.fail(want)
	}
	from := s.at + i
	s.at = from + len(mark)
	return from, nil
}

// head goes past the rest of a boundary's line and the header of a part, and gives the name of the field that the part is;
// none where it is a file.
func (s *formScanner) head() (string, error) {
	for s.at < len(s.src) && (s.src[s.at] == ' ' || s.src[s.at] == '\t') {
		s.at++
	}
	if !bytes.HasPrefix(s.src[s.at:], []byte("\r\n")) {
		return "", s.fail("the end of a boundary's line")
	}
	from := s.at
	to, err := s.past([]byte("\r\n\r\n"), s.at+maxPartHead, "the end of a part's header")
	if err != nil {
		return "", err
	}
	for line := range bytes.SplitSeq(s.src[from:to], []byte("\r\n")) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		if !is(key, "content-disposition") {
			continue
		}
		disposition, params, err := mime.ParseMediaType(string(value))
		if _, file := params["filename"]; err != nil || disposition != "form-data" || file {
			return "", nil
		}
		return params["name"], nil
	}
	return "", nil
}
