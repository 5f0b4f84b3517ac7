package proc_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pilotlight/probe/proc"
)

func FuzzStat(f *testing.F) {
	f.Add("1 (a) b) (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0")
	f.Add("")
	f.Add(")(")
	f.Fuzz(func(_ *testing.T, data string) {
		_, _ = proc.ParseStat(data)
	})
}

func TestStatIsReadBehindANameWithParentheses(t *testing.T) {
	got, err := proc.ParseStat("1 (a) b) (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0")
	if want := (proc.Stat{Name: "a) b) (c", State: 'S', Parent: 1, Group: 7, Born: 4711}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

// A tree in which 40 is a child of 30 in a container: 7 in its namespace.
func tree(t *testing.T) proc.Dir {
	dir := t.TempDir()
	for path, text := range map[string]string{
		"1/stat":    "1 (init) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1 0 0",
		"30/stat":   "30 (vllm) S 1 30 30 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 300 0 0",
		"40/stat":   "40 (worker) R 30 30 30 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 400 0 0",
		"40/status": "Name:\tworker\nNSpid:\t40\t7\nThreads:\t1\n",
		"40/cgroup": "12:cpu:/docker/longer/than/the/unified\n0::/system.slice/vllm.service\n",
		"30/cgroup": "12:cpu:/docker/abc\n11:memory:/docker/abcdef\n0::/\n",
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return proc.Dir(dir)
}

func TestWhatIsReadOfAProcess(t *testing.T) {
	d := tree(t)
	if got, want := d.Lineage(40), []int{40, 30, 1}; !slices.Equal(got, want) {
		t.Errorf("lineage %v, want %v", got, want)
	}
	if got := d.Lineage(41); got != nil {
		t.Errorf("a process that is not there has the lineage %v", got)
	}
	if got, want := d.Numbers("40"), []int{40, 7}; !slices.Equal(got, want) {
		t.Errorf("numbers %v, want %v", got, want)
	}
	if got, want := d.Cgroup(40), "/system.slice/vllm.service"; got != want {
		t.Errorf("control group %q, want %q", got, want)
	}
	if got, want := d.Cgroup(30), "/docker/abcdef"; got != want {
		t.Errorf("control group %q, want %q", got, want)
	}
}
