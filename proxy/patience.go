package proxy

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// errSlow says that a backend took longer than its model's answer limits allow.
var errSlow = errors.New("it took too long")

// await sets when the backend's next sign of life is due. The alarm of its connection may go off earlier than that:
// setting one for each piece of a stream costs more than looking, once in minutes, whether it is time.
func (v *visit) await(u *upstream, now, due time.Time) error {
	if due.After(v.end) {
		due = v.end
	}
	u.due = due
	if u.alarm.After(now) && !u.alarm.After(due) && u.raw != nil { // TLS does not go on after an alarm in a write
		return nil
	}
	u.alarm = due
	set := u.SetDeadline
	if v.upload != nil {
		set = u.SetReadDeadline // the upload writes at the same time, and has a limit of its own
	}
	return v.conn.unlessGone(func() error { return set(due) })
}

// late says whether a backend is, its alarm having gone off. If it is not, the alarm is set again.
func (v *visit) late(u *upstream) error {
	now := time.Now()
	if why := v.conn.Err(); why != nil { // that set it off
		return why
	}
	if now.Before(u.due) {
		return v.await(u, now, u.due)
	}
	limits := v.to.answer
	switch {
	case !now.Before(v.end):
		return fmt.Errorf("%w: answer.total is %s", errSlow, limits.Total)
	case v.phase == asking:
		return fmt.Errorf("%w: answer.first_byte is %s", errSlow, limits.FirstByte)
	}
	return fmt.Errorf("%w: answer.between_bytes is %s", errSlow, limits.BetweenBytes)
}

// fill reads more from the backend.
func (v *visit) fill(u *upstream) error {
	for {
		err := u.fill()
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err = v.late(u); err != nil {
			return err
		}
	}
}

// next reads the next piece of an answer that has begun.
func (v *visit) next(u *upstream) error {
	now := time.Now()
	if err := v.await(u, now, now.Add(v.to.answer.BetweenBytes.Std())); err != nil {
		return err
	}
	return v.fill(u)
}

// write writes to the backend.
func (v *visit) write(u *upstream, b []byte) error {
	for {
		n, err := u.Write(b)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		b = b[n:]
		if err = v.late(u); err != nil {
			return err
		}
	}
}
