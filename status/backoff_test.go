package status

import (
	"math/rand/v2"
	"regexp"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
	testclock "k8s.io/utils/clock/testing"
)

// TestRestartBackoffIsUpstreams drives RestartBackoff and upstream's Backoff, set up as the kubelet sets it up, through
// the same random lives of a container and compares every delay.
func TestRestartBackoffIsUpstreams(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for life := range 200 {
		clock := testclock.NewFakeClock(begin)
		upstream := flowcontrol.NewFakeBackOff(10*time.Second, 300*time.Second, clock)
		upstream.HasExpiredFunc = func(event, last time.Time, _ time.Duration) bool { return event.Sub(last) > 600*time.Second }
		key := "k"
		c := Container{CreatedAt: begin, Key: key}
		for restart := range 20 {
			runs := []time.Duration{time.Second, time.Minute, 10 * time.Minute, 11 * time.Minute}[rng.IntN(4)]
			clock.Step(runs)
			c.State, c.FinishedAt = Exited, clock.Now()
			if rng.IntN(10) == 0 {
				key += "'" // the image changes
			}
			f := Facts{Now: clock.Now(), Limits: DefaultLimits()}
			until, next := RestartBackoff(c, f, key)
			wait := time.Duration(0)
			for upstream.IsInBackOffSince(key, c.FinishedAt) {
				clock.Step(time.Second)
				wait += time.Second
			}
			if got := until.Sub(c.FinishedAt); got != wait {
				t.Fatalf("life %d restart %d: waits %v, upstream %v", life, restart, got, wait)
			}
			upstream.Next(key, c.FinishedAt)
			if got := upstream.Get(key); got != next {
				t.Fatalf("life %d restart %d: next delay %v, upstream %v", life, restart, next, got)
			}
			c = Container{CreatedAt: clock.Now(), Key: key, Backoff: next}
		}
	}
}

func TestRestartBackoffOddClocks(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	f := Facts{Now: now, Limits: DefaultLimits()}
	c := Container{Key: "k", Backoff: 20 * time.Second, CreatedAt: now.Add(10*365*24*time.Hour - time.Minute), FinishedAt: now.Add(10 * 365 * 24 * time.Hour)}
	if until, _ := RestartBackoff(c, f, "k"); until.After(now) {
		t.Errorf("clock set back by ten years: waits until %v", until)
	}
	c = Container{Key: "k", Backoff: 20 * time.Second, CreatedAt: now.Add(-time.Minute), FinishedAt: now.Add(5 * time.Millisecond)}
	if until, _ := RestartBackoff(c, f, "k"); !until.Equal(c.FinishedAt.Add(20 * time.Second)) {
		t.Errorf("an exit seen in the look that began before it: waits until %v", until)
	}
	f.Limits.RestartMax = time.Second
	if until, next := RestartBackoff(c, f, "k"); !until.Equal(c.FinishedAt.Add(time.Second)) || next != time.Second {
		t.Errorf("a smaller limit: waits until %v, then %v", until, next)
	}
}

func TestRetryAt(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		op    Op
		count int
		want  time.Duration
	}{
		{OpPull, 1, 10 * time.Second}, {OpPull, 2, 20 * time.Second}, {OpPull, 5, 160 * time.Second}, {OpPull, 6, 300 * time.Second},
		{OpPull, 1 << 40, 300 * time.Second}, {OpCreate, 1, time.Second}, {OpCreate, 4, 8 * time.Second}, {OpStart, 5, 10 * time.Second},
		{"detach", 1000, 10 * time.Second}, {OpCreate, 0, time.Second},
	} {
		if got := RetryAt(Task{Op: c.op}, Failed{Count: c.count, Last: at}, DefaultLimits()).Sub(at); got != c.want {
			t.Errorf("%s, %d failures: %v, want %v", c.op, c.count, got, c.want)
		}
	}
}

func TestRestartKey(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}}
	base := v1.Container{Name: "c", Image: "i:1", Resources: v1.ResourceRequirements{
		Limits:   v1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("64Mi")},
		Requests: v1.ResourceList{"cpu": resource.MustParse("500m")},
	}}
	key := RestartKey(pod, &base)
	// The value itself is kept: a new release must not forget the loops of running containers.
	if key != "f035600ac8eff758" {
		t.Errorf("key %s", key)
	}
	same := base.DeepCopy()
	same.Resources.Limits["cpu"] = resource.MustParse("1000m")
	same.Env, same.Command = []v1.EnvVar{{Name: "A"}}, []string{"x"}
	if RestartKey(pod, same) != key {
		t.Error("the same image and resources have another key")
	}
	for name, change := range map[string]func(*v1.Container){
		"image":     func(c *v1.Container) { c.Image = "i:2" },
		"name":      func(c *v1.Container) { c.Name = "d" },
		"resources": func(c *v1.Container) { c.Resources.Limits["memory"] = resource.MustParse("65Mi") },
		"moved": func(c *v1.Container) {
			c.Resources.Limits, c.Resources.Requests = c.Resources.Requests, c.Resources.Limits
		},
	} {
		other := base.DeepCopy()
		change(other)
		if RestartKey(pod, other) == key {
			t.Errorf("another %s has the same key", name)
		}
	}
}

func TestContainerID(t *testing.T) {
	seen := map[string]bool{}
	for _, uid := range []types.UID{"u", "v", "0c2f"} {
		for _, name := range []string{"", "a", "b"} {
			for attempt := range 12 {
				id := ContainerID(uid, name, attempt)
				if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(id) {
					t.Fatalf("id %q", id)
				}
				if seen[id] {
					t.Errorf("%s %s %d has another's id", uid, name, attempt)
				}
				seen[id] = true
			}
		}
	}
	if got, again := ContainerID("u", "a", 1), ContainerID("u", "a", 1); got != again {
		t.Errorf("the id changes: %s, then %s", got, again)
	}
}
