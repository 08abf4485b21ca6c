package runtime

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"podd/runtime/killpoint"
	"podd/runtime/logs"
	"podd/runtime/plan"
	"podd/status"
)

// recordExit stores how an instance has ended, with what it said of that. The look that asked for this has seen the end,
// which does not change any more.
func (h *host) recordExit(ctx context.Context, pod *v1.Pod, s plan.Step) error {
	i, ok := h.lastSeen().of(s.Name, s.Attempt)
	if !ok {
		return nil
	}
	c := h.container(i, time.Now())
	if c.State != status.Exited {
		return nil
	}
	if m, ok := status.MemberOf(pod, s.Name); ok && c.Message == "" && c.ExitCode != 0 &&
		m.TerminationMessagePolicy == v1.TerminationMessageFallbackToLogsOnError {
		c.Message = h.lastLines(ctx, pod, c)
	}
	killpoint.At("record.before")
	defer killpoint.At("record.after")
	return h.keepExit(ctx, pod, c)
}

// keepExit stores the end of an instance of pod.
func (h *host) keepExit(ctx context.Context, pod *v1.Pod, c status.Container) error {
	return h.change(ctx, func(r record) record {
		c.Late = new(status.Late(pod, status.Facts{Now: time.Now(), Started: r.Started, Evicted: r.Evicted}, c.FinishedAt))
		return r.withExit(c)
	})
}

// messageMount is the mount of the file for the termination message of an instance, at its path in the container.
func (h *host) messageMount(id, at string) (specs.Mount, error) {
	source, err := h.r.Sandboxes.EnsureMessage(string(h.uid), id)
	if err != nil {
		return specs.Mount{}, err
	}
	return specs.Mount{
		Destination: path.Join("/", at), Type: "bind", Source: source, Options: []string{"rbind", "rprivate", "rw"},
	}, nil
}

// How much of a log stands for a termination message (pkg/kubelet/container/runtime.go,
// MaxContainerTerminationMessageLogLines and -Length).
const messageLines, messageLogBytes = 80, 2048

// lastLines is the end of the log of an instance that has ended.
func (h *host) lastLines(ctx context.Context, pod *v1.Pod, c status.Container) string {
	h.r.drain(ctx, c.ID)
	ended := make(chan struct{})
	close(ended)
	lines := int64(messageLines)
	file := logs.Path(h.r.LogDir, pod.Namespace, pod.Name, string(h.uid), c.Name, c.Attempt)
	end := lastBytes{limit: messageLogBytes}
	if err := logs.Read(ctx, file, logs.ReadOptions{TailLines: &lines, Done: ended}, &end, &end); err != nil {
		h.r.Log.Warn("read termination message from the log", "pod", pod.Name, "container", c.Name, "err", err)
		return ""
	}
	return strings.ToValidUTF8(string(end.kept), "?")
}

// lastBytes keeps the last bytes that are written to it.
type lastBytes struct {
	kept  []byte
	limit int
}

func (l *lastBytes) Write(p []byte) (int, error) {
	l.kept = append(l.kept, p[max(len(p)-l.limit, 0):]...)
	if over := len(l.kept) - l.limit; over > 0 {
		l.kept = append(l.kept[:0], l.kept[over:]...)
	}
	return len(p), nil
}
