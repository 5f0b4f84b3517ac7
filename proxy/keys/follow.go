package keys

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"time"
)

// lookEvery is how often a file of keys is looked at: one that is revoked must stop within a second.
const lookEvery = 100 * time.Millisecond

// Follow hands the keys of a file on whenever it changes, until ctx ends. A file that is no good, or gone, changes nothing, and is said once.
func Follow(ctx context.Context, file string, log *slog.Logger, take func([]Key)) {
	said, reader := "", &Reader{}
	FollowFile(ctx, file, lookEvery, func() bool {
		all, err := reader.ReadFile(file)
		switch {
		case err == nil:
			said = ""
			take(all)
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
	for seen := fs.FileInfo(nil); ; {
		if now, err := os.Stat(file); (err != nil || changed(seen, now)) && take() {
			seen = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// changed says whether a file is another, or may hold something else than before. One that takes another's place may have its time and its size.
func changed(before, now fs.FileInfo) bool {
	return before == nil || !os.SameFile(before, now) || !before.ModTime().Equal(now.ModTime()) || before.Size() != now.Size()
}
