package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheCauseIsTheLastLineThatLooksBadElseTheLast(t *testing.T) {
	for _, c := range []struct{ log, want string }{
		{"", ""},
		{"loading\nlistening\n\n", "listening"},
		{"Traceback:\n  File x\nValueError: no such model\nINFO: bye\n", "ValueError: no such model"},
		{"10%\r50%\r\x1b[31mCUDA out of memory\x1b[0m\r\n", "CUDA out of memory"},
		{"an error\n" + strings.Repeat("\n", 9), "an error"},
		{strings.Repeat("x", maxLine+1), strings.Repeat("x", maxLine) + "..."},
	} {
		if got := causeOf([]byte(c.log)); got != c.want {
			t.Errorf("cause of %q is %q, want %q", c.log, got, c.want)
		}
	}
}

func TestALogThatIsTooLargeIsMovedAsideWhileItIsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.log")
	log, _, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() //nolint:errcheck // a test
	write := func(s string) {
		t.Helper()
		if _, err := log.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	want := func(path, want string) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", filepath.Base(path), got, err, want)
		}
	}
	write("0123456789")
	if err := trim(path, 10); err != nil {
		t.Fatal(err)
	}
	want(path, "0123456789")
	write("abc")
	if err := trim(path, 10); err != nil {
		t.Fatal(err)
	}
	write("new")
	want(path+".1", "3456789abc")
	want(path, "new")
}

func TestAnAccessLogOfOurOwnProbesIsNoProgress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.log")
	a := activity{log: path, ours: []string{"/health", "/models"}, group: os.Getpid()}
	for _, c := range []struct {
		log  string
		want bool
	}{
		{"INFO: 127.0.0.1:1 - \"GET /health HTTP/1.1\" 503 Service Unavailable\n", false},
		{"srv log_server_r: request: GET /models 127.0.0.1 200\nGET /hea", false},
		{"lth 127.0.0.1 503\n", false},
		{"loading /models/llama/shard-1\n", true},
		{"", false},
		{"shard 1 of 2\r", true},
	} {
		log, _, err := openLog(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = log.WriteString(c.log)
		if err != nil || log.Close() != nil {
			t.Fatal(err)
		}
		if got := a.logged(); got != c.want {
			t.Errorf("after %q it logged: %v, want %v", c.log, got, c.want)
		}
	}
}
