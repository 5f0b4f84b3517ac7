package launch

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// birth is when a process was born. No two processes of one number share it. Its error says that there is no such process.
func birth(pid int) (string, error) {
	p, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return "", fmt.Errorf("find out when process %d was born: %w", pid, err)
	}
	return fmt.Sprintf("%d.%06d", p.Proc.P_starttime.Sec, p.Proc.P_starttime.Usec), nil
}

// lives reports whether the process that was born then is still alive.
func lives(pid int, born string) bool {
	const zombie = 5 // SZOMB
	p, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil || p.Proc.P_stat == zombie {
		return false
	}
	now, err := birth(pid)
	return err == nil && now == born
}

func groupLives(group int) bool { return !errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) }

// groupRead cannot be known here: a wake's progress is what the server answers and logs.
func groupRead(int) int64 { return 0 }

// awaitExit leaves it all to Wait: there is no way here to wait for a child without seeing it off.
func awaitExit(int) {}

// awaitEnd returns true when a process that need not be our child has ended, and false when cancelled is closed.
func awaitEnd(pid int, born string, cancelled <-chan struct{}) bool {
	return pollEnd(pid, born, cancelled)
}

// members are those of a group that could use CUDA, which there is not here.
func members(int) []int { return nil }
