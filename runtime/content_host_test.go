//go:build host

package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"

	"podd/status"
	"podd/volumes"
)

// counted are tokens that say which one they are.
type counted struct{ made int }

func (c *counted) Key() string { return "key" }

func (c *counted) Token(_ context.Context, _ *v1.Pod, _ string, expiry time.Duration) (string, time.Time, error) {
	c.made++
	return fmt.Sprintf("token %d", c.made), time.Now().Add(expiry), nil
}

// TestTokensAreMadeAgain: a token lies in its volume for four fifths of its time, or a day if that is less, and then another
// one does; what is not due is left alone.
func TestTokensAreMadeAgain(t *testing.T) {
	for seconds, lies := range map[int64]time.Duration{600: 480 * time.Second, 3607: 2885 * time.Second, 7 * 24 * 3600: 24 * time.Hour} {
		t.Run(fmt.Sprint(seconds), func(t *testing.T) {
			p, dir := newPromising(t), t.TempDir()
			v, err := volumes.Open(volumes.Options{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			p.Volumes, p.Tokens = v, &counted{}
			pod, h := p.bound("pod", "")
			pod = pod.DeepCopy()
			pod.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
				{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}}}}}}}
			t.Cleanup(func() {
				if err := v.Remove(context.Background(), string(pod.UID)); err != nil {
					t.Error(err)
				}
			})
			if err := v.Ensure(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				rotate(t, h, pod, filepath.Join(v.Path(string(pod.UID), ".content"), "v", "token"), lies)
			})
		})
	}
}

func rotate(t *testing.T, h *host, pod *v1.Pod, file string, lies time.Duration) {
	const jitter = 10 * time.Second
	look := func(want string, stale bool) (due time.Time) {
		t.Helper()
		f := status.Facts{Ground: true, Now: time.Now()}
		if err := h.observeContent(pod, &f); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(file); err != nil || string(text) != want || f.Stale != 0 != stale {
			t.Errorf("there is %q, %v, want %q; stale: %v, want %v", text, err, want, f.Stale != 0, stale)
		}
		return f.RefreshAt
	}
	if err := h.ensureContent(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	made := time.Now()
	for n := 1; n <= 3; n++ {
		token := fmt.Sprintf("token %d", n)
		due := look(token, false)
		if in := due.Sub(made); in > lies+time.Second || in < lies-jitter {
			t.Errorf("%s is due in %s, want %s or up to %s less", token, in, lies, jitter)
		}
		time.Sleep(time.Until(due) - time.Second)
		look(token, false)
		if err := h.refresh(t.Context(), pod); err != nil { // for something else
			t.Fatal(err)
		}
		look(token, false)
		time.Sleep(time.Second)
		look(token, true)
		if err := h.refresh(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		made = time.Now()
	}
	look("token 4", false)
}
