//go:build host

package runtime

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	told "podd/api/history"
	"podd/runtime/history"
	"podd/runtime/plan"
	"podd/runtime/worker"
	"podd/status"
	"podd/volumes"
)

// filling is a pod with volumes that podd fills, and the objects that they are made of.
type filling struct {
	*promising
	pod  *v1.Pod
	host *host
}

func newFilling(t *testing.T, vols ...v1.Volume) *filling {
	t.Helper()
	f := &filling{promising: newPromising(t)}
	var err error
	if f.Volumes, err = volumes.Open(volumes.Options{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	f.pod, f.host = f.bound("web", "")
	f.pod = f.pod.DeepCopy()
	f.pod.Spec.Volumes = vols
	t.Cleanup(func() {
		if err := f.Volumes.Remove(context.Background(), string(f.pod.UID)); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *filling) put(name, text string) {
	f.t.Helper()
	m := &v1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Data: map[string]string{"key": text}}
	var data strings.Builder
	if err := protobuf.NewSerializer(legacyscheme.Scheme, legacyscheme.Scheme).Encode(m, &data); err != nil {
		f.t.Fatal(err)
	}
	key := configMapPrefix + "ns/" + name
	was, _ := f.Store.Get(key)
	if _, err := f.Store.Put(f.t.Context(), key, []byte(data.String()), was.Revision, 0); err != nil {
		f.t.Fatal(err)
	}
}

func (f *filling) remove(name string) {
	f.t.Helper()
	was, _ := f.Store.Get(configMapPrefix + "ns/" + name)
	if _, err := f.Store.Delete(f.t.Context(), was.Key, was.Revision); err != nil {
		f.t.Fatal(err)
	}
}

func (f *filling) text(path string) string {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.Volumes.Path(string(f.pod.UID), ".content"), path))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(data)
}

func (f *filling) facts() status.Facts {
	f.t.Helper()
	facts := status.Facts{Ground: true, Now: time.Now()}
	if err := f.host.observeContent(f.pod, &facts); err != nil {
		f.t.Fatal(err)
	}
	return facts
}

func ofConfigMap(name string) v1.Volume {
	vol := v1.Volume{Name: name}
	vol.ConfigMap = &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: name}}
	return vol
}

// withToken is a volume of a token and a ConfigMap, as kube-api-access is.
func withToken(name string) v1.Volume {
	vol := v1.Volume{Name: name}
	vol.Projected = &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: name}}},
	}}
	return vol
}

// mint makes tokens that hold for as long as it is, or none.
type mint time.Duration

func (m mint) Token(context.Context, *v1.Pod, string, time.Duration) (string, time.Time, error) {
	if m == 0 {
		return "", time.Time{}, errors.New("no such account")
	}
	return "token", time.Now().Add(time.Duration(m)), nil
}

func (mint) Key() string { return "key" }

// onRecord calls itself with each record of a log.
type onRecord func(slog.Record)

func (onRecord) Enabled(context.Context, slog.Level) bool        { return true }
func (o onRecord) Handle(_ context.Context, r slog.Record) error { o(r); return nil }
func (o onRecord) WithAttrs([]slog.Attr) slog.Handler            { return o }
func (o onRecord) WithGroup(string) slog.Handler                 { return o }

// An object that is deleted and made again while podd notices that it is gone is not taken for what was written.
func TestRefreshWhileTheSourceComesBack(t *testing.T) {
	f := newFilling(t, withToken("config"))
	f.Tokens = mint(time.Hour)
	f.put("config", "old")
	if err := f.host.ensureContent(t.Context(), f.pod); err != nil {
		t.Fatal(err)
	}
	due := f.facts().RefreshAt
	if due.IsZero() {
		t.Fatal("the token is never due")
	}
	f.remove("config")
	f.Log = slog.New(onRecord(func(slog.Record) { f.put("config", "new") }))
	if err := f.host.refresh(t.Context(), f.pod); err != nil {
		t.Fatal(err)
	}
	facts := f.facts()
	if facts.Stale == 0 || f.text("config/key") != "old" {
		t.Errorf("the volume has %q and counts as written", f.text("config/key"))
	}
	if !facts.RefreshAt.Equal(due) {
		t.Errorf("the token is due at %v, before at %v", facts.RefreshAt, due)
	}
	if err := f.host.refresh(t.Context(), f.pod); err != nil || f.text("config/key") != "new" || f.facts().Stale != 0 {
		t.Errorf("the volume has %q, %v", f.text("config/key"), err)
	}
}

// A token that is due while another source of its volume is gone is due again soon, and not at every look.
func TestKeptVolumeIsTriedAgain(t *testing.T) {
	f := newFilling(t, withToken("config"))
	f.Tokens = mint(time.Nanosecond)
	f.put("config", "old")
	if err := f.host.ensureContent(t.Context(), f.pod); err != nil {
		t.Fatal(err)
	}
	f.remove("config")
	if err := f.host.refresh(t.Context(), f.pod); err != nil {
		t.Fatal(err)
	}
	facts := f.facts()
	if in := facts.RefreshAt.Sub(facts.Now); facts.Stale != 0 || in <= 0 || in > keptAgain {
		t.Errorf("stale %d, to be tried again in %v", facts.Stale, in)
	}
}

// That a volume shows old content is told once, and once more when it follows again.
func TestOldContentIsTold(t *testing.T) {
	vol := v1.Volume{Name: "both"}
	vol.Projected = &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "other"}}},
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "config"}}},
	}}
	f := newFilling(t, vol)
	f.put("other", "old")
	past, err := history.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	f.host.story.to = past
	f.put("config", "old")
	if err := f.host.ensureContent(t.Context(), f.pod); err != nil {
		t.Fatal(err)
	}
	f.remove("config")
	for _, change := range []string{"", "other", "other", "config", "config"} {
		if change != "" {
			f.put(change, "new")
		}
		if err := f.host.refresh(t.Context(), f.pod); err != nil {
			t.Fatal(err)
		}
	}
	pods, err := past.Pods("ns", "web", "")
	if err != nil || len(pods) != 1 {
		t.Fatalf("%+v, %v", pods, err)
	}
	got := slices.DeleteFunc(pods[0].Entries, func(e told.Entry) bool { return e.What != told.Volume })
	if len(got) != 2 || !got[0].Failed || got[0].Reason != "both" || got[0].Message != `configmap "config" not found` || got[1].Failed || got[1].Reason != "both" {
		t.Errorf("told: %+v", got)
	}
}

// A runtime that is not there is told of as what the sandbox lacks, and not the mounts.
func TestMissingRuntimeIsTold(t *testing.T) {
	f := newFilling(t)
	past, err := history.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	f.host.story.to = past
	f.Handler = func(string) (string, error) { return "", errors.New("no such class") }
	class := "kata"
	f.pod.Spec.RuntimeClassName = &class
	f.host.rec.Started = time.Now()
	ctx, end := f.host.story.begin(t.Context(), f.pod, plan.Step{Op: plan.EnsureGround})
	end(f.host.ensureGround(ctx, f.pod))
	pods, err := past.Pods("ns", "web", "")
	if err != nil || len(pods) != 1 || len(pods[0].Entries) != 1 {
		t.Fatalf("%+v, %v", pods, err)
	}
	if e := pods[0].Entries[0]; e.What != told.Sandbox || !e.Failed || e.Message != "no such class" {
		t.Errorf("told: %+v", e)
	}
}

// A volume for which there is no token stops none that comes after it.
func TestRefreshGoesOn(t *testing.T) {
	f := newFilling(t, withToken("first"), ofConfigMap("second"))
	f.Tokens = mint(time.Nanosecond)
	f.put("first", "old")
	f.put("second", "old")
	if err := f.host.ensureContent(t.Context(), f.pod); err != nil {
		t.Fatal(err)
	}
	f.Tokens = mint(0)
	f.put("second", "new")
	var which *volumes.Error
	if err := f.host.refresh(t.Context(), f.pod); !errors.As(err, &which) || which.Volume != "first" {
		t.Errorf("refresh: %v", err)
	}
	if got := f.text("second/key"); got != "new" {
		t.Errorf("the second volume has %q", got)
	}
	f.remove("second")
	err := f.host.ensureContent(t.Context(), f.pod)
	if !errors.As(err, new(worker.Lacking)) {
		t.Errorf("a ConfigMap that is not there is not worth another try when it comes: %v", err)
	}
	f.host.failedMount(f.pod, err)
	if got := strings.Join(f.events, "\n"); !strings.Contains(got, `volume "first" : token of`) || !strings.Contains(got, `volume "second" : configmap "second" not found`) {
		t.Errorf("events:\n%s", got)
	}
}

// A step that fails as before is no news, unless it has succeeded meanwhile.
func TestFailureAfterSuccessIsNews(t *testing.T) {
	f := newFilling(t, withToken("config"))
	f.Tokens = mint(0)
	f.put("config", "text")
	var levels []slog.Level
	f.Log = slog.New(onRecord(func(r slog.Record) { levels = append(levels, r.Level) }))
	good := f.pod.DeepCopy()
	good.Spec.Volumes = nil
	for _, pod := range []*v1.Pod{f.pod, f.pod, good, f.pod} {
		_ = f.host.Do(t.Context(), pod, plan.Step{Op: plan.Refresh})
	}
	if want := []slog.Level{slog.LevelWarn, slog.LevelDebug, slog.LevelDebug, slog.LevelWarn}; !slices.Equal(levels, want) {
		t.Errorf("logged as %v, want %v", levels, want)
	}
}
