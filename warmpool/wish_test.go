package warmpool

import (
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/config"
	"pilotlight/router"
)

// wish tells the keeper what the planner wants from now on.
func (s *site) wish(wishes map[string]router.Wish) {
	time.Sleep(time.Millisecond)
	for id, w := range wishes {
		w.Made, w.Why = time.Now(), "the planner says so"
		if w.Until.IsZero() {
			w.Until = w.Made.Add(3 * time.Minute)
		}
		wishes[id] = w
	}
	time.Sleep(time.Millisecond)
	s.keeper.Wish(wishes)
	synctest.Wait()
}

func TestAWishMovesWhatNobodyUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(24*g), map[string]config.Model{"a": model("a", 8*g, sleeper)}, nil)
		s.wish(map[string]router.Wish{"a-0": {Tier: router.OnGPU}})
		s.wants("a-0", "ready") // nobody asked
		time.Sleep(2 * time.Minute)
		s.wants("a-0", "ready") // the idle time is a minute
		time.Sleep(time.Minute)
		s.wants("a-0", "asleep") // nobody wished again
		s.wish(map[string]router.Wish{"a-0": {Tier: router.OnDisk}})
		s.wants("a-0", "stopped")

		lease := s.ask("a")
		s.wish(map[string]router.Wish{"a-0": {Tier: router.OnHost}})
		s.wants("a-0", "ready") // it is in use
		lease.Release(router.OK)
		s.wants("a-0", "ready") // and was after the wish was made
		s.wish(map[string]router.Wish{"a-0": {Tier: router.OnHost}})
		s.wants("a-0", "asleep")
	})
}

func TestAWakeAheadTakesNobodysPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(10*g), map[string]config.Model{"a": model("a", 8*g, sleeper), "b": model("b", 8*g, sleeper)}, nil)
		s.use("a", time.Second)
		s.wish(map[string]router.Wish{"a-0": {Tier: router.OnGPU}, "b-0": {Tier: router.OnGPU}})
		s.wants("a-0", "ready")
		s.wants("b-0", "stopped") // there is no room, and that is no failure
		lease := s.ask("a")
		s.wish(map[string]router.Wish{"b-0": {Tier: router.OnGPU}})
		s.wants("b-0", "stopped") // nor does one that is busy go
		lease.Release(router.OK)
		s.wish(map[string]router.Wish{"b-0": {Tier: router.OnGPU}})
		s.wants("a-0", "asleep")
		s.wants("b-0", "ready")
		s.use("a", time.Second) // somebody asks: that goes before any wish
		s.wants("a-0", "ready")
		s.wants("b-0", "asleep")
	})
}

func TestWhatIsWorthLeastMakesRoomFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(20*g), map[string]config.Model{"a": model("a", 8*g, sleeper), "b": model("b", 8*g, sleeper), "c": model("c", 8*g, sleeper)}, nil)
		s.use("a", time.Second)
		s.use("b", time.Second)
		s.wish(map[string]router.Wish{"a-0": {Tier: router.OnGPU, Worth: 3}, "b-0": {Tier: router.OnGPU, Worth: 1}})
		s.use("c", time.Second)
		s.wants("a-0", "ready") // used longer ago
		s.wants("b-0", "asleep")
	})
}

func TestWishesStayWithinWhatTheFileSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, gpus(40*g), map[string]config.Model{
			"min":   model("min", 8*g, func(m *config.Model) { m.Min = 1 }),
			"never": model("never", 8*g, func(m *config.Model) { m.NeverSleep = true }),
			"max": model("max", 8*g, func(m *config.Model) {
				m.Max = 1
				m.Backends = append(m.Backends, m.Backends[0])
				m.Backends[1].Name = "max-1"
			}),
		}, nil)
		s.use("never", time.Second)
		s.wish(map[string]router.Wish{
			"min-0": {Tier: router.OnDisk}, "never-0": {Tier: router.OnHost}, "max-0": {Tier: router.OnGPU}, "max-1": {Tier: router.OnGPU},
		})
		s.wants("min-0", "ready")
		s.wants("never-0", "ready")
		s.wants("max-0", "ready")
		s.wants("max-1", "stopped")
	})
}
