package warmpool

import "context"

// A Lock is held by one process at a time, of all that ask for it: router/consul's Client has it.
type Lock interface {
	// Lock calls hold whenever this process holds the lock called key, until ctx ends. The context of hold ends as soon as the lock
	// may be lost.
	Lock(ctx context.Context, key, who string, hold func(ctx context.Context)) error
}

// Elect makes one of several agents the owner of backends that are on no node of theirs: keep runs while this one is it, and is
// called off, and waited for, when it may be so no more. What keep leaves under way the next owner finds and sees through, since the
// backends themselves know how far they are. Elect ends with ctx, or when a keep fails or ends
// uncalled.
func Elect(ctx context.Context, lock Lock, key, who string, keep func(ctx context.Context) error) error {
	electing, end := context.WithCancel(ctx)
	defer end()
	var failed error
	err := lock.Lock(electing, key, who, func(held context.Context) {
		if failed = keep(held); failed != nil || held.Err() == nil {
			end()
		}
	})
	if failed != nil || electing.Err() != nil {
		return failed
	}
	return err
}
