package keys

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// lookEvery is how often a file of keys is looked at: one that is revoked must stop within a second.
const lookEvery = 250 * time.Millisecond

// ReadFile reads a file of keys.
func ReadFile(file string) ([]Key, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read the API keys: %w", err)
	}
	defer f.Close()
	all, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("read the API keys in %s: %w", file, err)
	}
	return all, nil
}

// Follow hands the keys of a file on whenever it changes, until ctx ends. A file that is no good, or gone, changes nothing, and is said once.
func Follow(ctx context.Context, file string, log *slog.Logger, changed func([]Key)) {
	said := ""
	FollowFile(ctx, file, lookEvery, func() bool {
		all, err := ReadFile(file)
		switch {
		case err == nil:
			said = ""
			changed(all)
			log.Info("API keys are taken over", "file", file, "keys", len(all))
		case said != err.Error():
			said = err.Error()
			log.Error("API keys are not taken over; those of before count", "error", err)
		}
		return err == nil
	})
}

// FollowFile looks at a file so often, from now on until ctx ends, and has it taken when it has changed. One that was not taken is tried at each look.
func FollowFile(ctx context.Context, file string, every time.Duration, take func() (taken bool)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for seen := ""; ; {
		if now := stamp(file); now != seen && take() {
			seen = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// stamp tells versions of a file apart.
func stamp(file string) string {
	info, err := os.Stat(file)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(info.ModTime().UnixNano(), info.Size())
}
