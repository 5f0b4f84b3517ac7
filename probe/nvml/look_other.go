//go:build !linux || !cgo

package nvml

import (
	"context"
	"fmt"

	"pilotlight/probe"
)

// Look needs a program for Linux that was built with cgo, since NVIDIA's library is in C.
func Look(context.Context, string, func(probe.GPUs)) error {
	return fmt.Errorf("%w: this pilotlight was not built for Linux with cgo (CGO_ENABLED=1 and gcc), without which it cannot be loaded", ErrNoLibrary)
}
