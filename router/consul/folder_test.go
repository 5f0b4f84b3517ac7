package consul

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

func TestOfAFolderWhatATokenMayNotSeeStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := f.client(t, nil)
		var got string
		stop := background(t, func(ctx context.Context) {
			_ = c.Folder(ctx, "keys", nil, func(values map[string][]byte) {
				var all []string
				for name, value := range values {
					all = append(all, fmt.Sprintf("%s=%s", name, value))
				}
				slices.Sort(all)
				got = strings.Join(all, " ")
			})
		})
		put := func(filtered bool, keys ...string) {
			f.do(func() {
				f.index++
				f.kv, f.filtered, f.keys = f.index, filtered, nil
				for _, text := range keys {
					name, value, _ := strings.Cut(text, "=")
					f.keys = append(f.keys, &api.KVPair{Key: "pilotlight/keys/" + name, Value: []byte(value)})
				}
			})
			pass(2 * changesIn)
		}
		for _, step := range []struct {
			filtered bool
			keys     []string
			want     string
		}{
			{false, []string{"a=1", "b=1", ""}, "a=1 b=1"},
			{true, []string{"a=2", "c=1"}, "a=2 b=1 c=1"},
			{true, nil, "a=2 b=1 c=1"},
			{false, []string{"c=1"}, "c=1"},
			{false, nil, ""},
		} {
			put(step.filtered, step.keys...)
			problems := strings.Join(c.Status().Problems, "\n")
			if noted := strings.Contains(problems, "may not see all"); got != step.want || noted != step.filtered {
				t.Errorf("of %q, filtered: %t, there is %q, want %q; problems: %s", step.keys, step.filtered, got, step.want, problems)
			}
		}
		stop()
	})
}

// What is taken away is heard of while the values are still being read, and a reading that began before does not bring it back.
func TestWhatIsGoneFromAFolderIsHeardOfAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := f.client(t, nil)
		var mu sync.Mutex // guards what follows
		var values map[string][]byte
		var gone []string
		known := func() (map[string][]byte, []string) {
			mu.Lock()
			defer mu.Unlock()
			return values, gone
		}
		stop := background(t, func(ctx context.Context) {
			_ = c.Folder(ctx, "keys", func(names []string) {
				mu.Lock()
				defer mu.Unlock()
				gone = append(gone, names...)
			}, func(now map[string][]byte) {
				mu.Lock()
				defer mu.Unlock()
				values = now
			})
		})
		put := func(names ...string) {
			f.do(func() {
				f.index++
				f.kv, f.keys = f.index, nil
				for _, name := range names {
					f.keys = append(f.keys, &api.KVPair{Key: "pilotlight/keys/" + name, Value: []byte("x")})
				}
			})
		}
		put("a", "b", "c")
		pass(2 * changesIn)
		f.do(func() { f.slow = 5 * time.Second })
		put("a", "b", "c", "d")
		pass(2 * changesIn) // all are being read now
		put("a", "c", "d")
		pass(2 * changesIn)
		if got, gone := known(); !slices.Equal(gone, []string{"b"}) || len(got) != 3 {
			t.Errorf("gone is %q, and known are %d", gone, len(got))
		}
		pass(5 * time.Second)
		got, _ := known()
		if _, back := got["b"]; back || len(got) != 3 || got["d"] == nil {
			t.Errorf("what was read before brings back what is gone: %v", got)
		}
		pass(readLater + 15*time.Second)
		if got, gone := known(); len(got) != 3 || len(gone) != 1 {
			t.Errorf("there is %v, gone is %q", got, gone)
		}
		stop()
	})
}
