package launch

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"pilotlight/probe/proc"
)

// birth is when a process was born: which boot of the host, and how many clock ticks into it. No two processes of one number
// share it. Its error says that there is no such process.
func birth(pid int) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("find out when process %d was born: %w", pid, err)
	}
	s, err := procfs.Stat(pid)
	if err != nil {
		return "", fmt.Errorf("find out when process %d was born: %w", pid, err)
	}
	return fmt.Sprintf("%s/%d", bytes.TrimSpace(boot), s.Born), nil
}

// lives reports whether the process that was born then is still alive.
func lives(pid int, born string) bool {
	now, err := birth(pid)
	if err != nil || now != born {
		return false
	}
	s, err := procfs.Stat(pid)
	return err == nil && !s.Dead()
}

const procfs proc.Dir = "/proc"

// members are the living processes of a group.
func members(group int) []int {
	if errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) {
		return nil
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		panic("BUG: " + err.Error())
	}
	var pids []int
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if s, err := procfs.Stat(pid); err == nil && s.Group == group && !s.Dead() {
			pids = append(pids, pid)
		}
	}
	return pids
}

func groupLives(group int) bool { return len(members(group)) > 0 }

// groupRead is how many bytes the living processes of a group have read, from disk or through the page cache.
func groupRead(group int) int64 {
	var sum int64
	for _, pid := range members(group) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if name == "rchar" || name == "read_bytes" {
				n, err := strconv.ParseInt(value, 10, 64)
				if err == nil {
					sum += n
				}
			}
		}
	}
	return sum
}

// awaitExit returns when a child of ours has ended, and leaves it for Wait to see it off.
func awaitExit(pid int) {
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
}

// awaitEnd returns true when a process that need not be our child has ended, and false when cancelled is closed. Before Linux
// 5.10 it notices within a second, else at once.
func awaitEnd(pid int, born string, cancelled <-chan struct{}) bool {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return true
	}
	if err != nil {
		return pollEnd(pid, born, cancelled)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	conn, err := file.SyscallConn()
	if err != nil {
		panic("BUG: a pidfd is no file: " + err.Error())
	}
	over := make(chan bool, 1)
	go func() {
		err := conn.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		over <- err == nil
	}()
	select {
	case ended := <-over:
		_ = file.Close()
		return ended
	case <-cancelled:
		_ = file.Close() // which ends the Read
		return <-over
	}
}
