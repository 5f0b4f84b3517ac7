package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"pilotlight/warmpool"
)

const (
	// lockTime is how long a process may take to finish the work that it has on the GPU. Nothing is in flight there by then.
	lockTime = 10 * time.Second
	// checkpointTime is how long one call of cuda-checkpoint may take: it copies all that the process has on the GPU.
	checkpointTime = 5 * time.Minute
)

// checkpointer puts CUDA processes to sleep and wakes them without their co-operation, by NVIDIA's cuda-checkpoint: what they have
// on the GPU is copied to host memory and let go of. Driver 570 is the first that can lock, checkpoint, restore and unlock one by one,
// which several processes on the GPU need (all are locked before the first is checkpointed); older ones only toggle. See
// github.com/NVIDIA/cuda-checkpoint and "CUDA Checkpointing" in the CUDA driver API.
type checkpointer struct{ binary string }

// errRestore says that a process did not come back from its checkpoint, and never will.
var errRestore = errors.New("it does not come back from its checkpoint")

// sleep checkpoints those of the processes that use CUDA, and says which these are. If one of them fails, those before it
// are woken again. An error that is warmpool.ErrCannotSleep leaves all of them as they were.
func (c checkpointer) sleep(ctx context.Context, pids []int) ([]int, error) {
	inSteps, err := c.inSteps(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", warmpool.ErrCannotSleep, err)
	}
	if !inSteps {
		return c.toggleAll(ctx, pids)
	}
	var cuda []int
	for _, pid := range pids {
		if _, err := c.run(ctx, pid, "--get-state"); err == nil {
			cuda = append(cuda, pid)
		}
	}
	if len(cuda) == 0 {
		return nil, fmt.Errorf("%w: none of its %d processes uses CUDA, as far as %s sees", warmpool.ErrCannotSleep, len(pids), c.binary)
	}
	for i, pid := range cuda {
		if err := c.act(ctx, pid, "lock", "--timeout", strconv.FormatInt(lockTime.Milliseconds(), 10)); err != nil {
			return nil, c.undo(ctx, err, nil, cuda[:i])
		}
	}
	for i, pid := range cuda {
		if err := c.act(ctx, pid, "checkpoint"); err != nil {
			return nil, c.undo(ctx, err, cuda[:i], cuda)
		}
	}
	return cuda, nil
}

// undo brings processes back to where they were before the sleep that failed by err.
func (c checkpointer) undo(ctx context.Context, err error, restore, unlock []int) error {
	ctx = context.WithoutCancel(ctx)
	for _, pid := range restore {
		if e := c.act(ctx, pid, "restore"); e != nil {
			return errors.Join(err, e)
		}
	}
	for _, pid := range unlock {
		if e := c.act(ctx, pid, "unlock"); e != nil {
			return errors.Join(err, e)
		}
	}
	return fmt.Errorf("%w: %w", warmpool.ErrCannotSleep, err)
}

// toggleAll is sleep for drivers before 570. What cannot be toggled does not use CUDA.
func (c checkpointer) toggleAll(ctx context.Context, pids []int) (cuda []int, err error) {
	for _, pid := range pids {
		if _, e := c.run(ctx, pid, "--toggle"); e != nil {
			err = e
		} else {
			cuda = append(cuda, pid)
		}
	}
	if len(cuda) == 0 {
		return nil, fmt.Errorf("%w: %w", warmpool.ErrCannotSleep, err)
	}
	return cuda, nil
}

// wake brings processes back that sleep has checkpointed. An error is errRestore, and warmpool.ErrOutOfMemory too where that is why.
func (c checkpointer) wake(ctx context.Context, pids []int) error {
	inSteps, err := c.inSteps(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errRestore, err)
	}
	steps := []string{"restore", "unlock"}
	if !inSteps {
		steps = []string{"toggle"}
	}
	for _, step := range steps {
		for _, pid := range pids {
			if err := c.act(ctx, pid, step); err != nil {
				return fmt.Errorf("%w: %w", errRestore, err)
			}
		}
	}
	return nil
}

func (c checkpointer) act(ctx context.Context, pid int, action string, more ...string) error {
	args := append([]string{"--action", action}, more...)
	if action == "toggle" {
		args = []string{"--toggle"}
	}
	_, err := c.run(ctx, pid, args...)
	return err
}

// inSteps tells whether it can lock, checkpoint, restore and unlock. Its error says why it cannot be run at all.
func (c checkpointer) inSteps(ctx context.Context) (bool, error) {
	help, err := c.call(ctx, "--help")
	if err != nil && len(help) == 0 {
		return false, err
	}
	return bytes.Contains(help, []byte("--action")), nil
}

// run has it do something with one process, and returns what it said.
func (c checkpointer) run(ctx context.Context, pid int, args ...string) (string, error) {
	said, err := c.call(ctx, append(args, "--pid", strconv.Itoa(pid))...)
	if err != nil {
		err = fmt.Errorf("%s %s of process %d: %w", c.binary, strings.TrimLeft(strings.Join(args, " "), "-"), pid, err)
	}
	return oneLine(said), err
}

func (c checkpointer) call(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, checkpointTime)
	defer cancel()
	said, err := exec.CommandContext(ctx, c.binary, args...).CombinedOutput()
	switch line := oneLine(said); {
	case err == nil:
	case errors.Is(err, exec.ErrNotFound):
		err = fmt.Errorf("%s is not in PATH; it is at github.com/NVIDIA/cuda-checkpoint, and node.cuda_checkpoint says where it is here", c.binary)
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case outOfMemory.MatchString(line):
		err = fmt.Errorf("%w: %s", warmpool.ErrOutOfMemory, line)
	case line != "":
		err = errors.New(line)
	}
	return said, err
}

// oneLine is what a program said, as one line.
func oneLine(said []byte) string {
	return readable(bytes.Join(bytes.Fields(said), []byte(" ")))
}

// outOfMemory is how CUDA and the engines say that a GPU has no memory left: CUDA's error names, PyTorch, llama.cpp, and
// vLLM's check at its start.
var outOfMemory = regexp.MustCompile(`(?i)(CUDA|HIP|GPU|device)[^\n]*out of memory|out of memory[^\n]*(CUDA|HIP|GPU|device)|OutOfMemoryError` +
	`|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|NVML_ERROR_MEMORY|less than desired GPU memory utilization|No available memory for the cache blocks`)
