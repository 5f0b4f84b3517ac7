package consul

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/consul/api"
)

func TestOfAFolderWhatATokenMayNotSeeStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := f.client(t, nil)
		var got string
		stop := background(t, func(ctx context.Context) {
			_ = c.Folder(ctx, "keys", func(values map[string][]byte) {
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
