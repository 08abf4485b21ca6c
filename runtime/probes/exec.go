package probes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

var errFull = errors.New("too many commands of probes are being started")

// exec runs a command in the container: exit code 0 is success (upstream: pkg/probe/exec).
func (p *Prober) exec(ctx context.Context, command []string, t Target, limit time.Duration) (probe.Result, string, error) {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case p.starts <- struct{}{}:
	case <-wait.Done():
		return probe.Unknown, "", errFull
	}
	started := sync.OnceFunc(func() { <-p.starts })
	defer started()
	run, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	command = expand(command, t.Container.Env)
	var out output
	code, err := t.Run(run, command, &out.stdout, &out.stderr, started)
	switch {
	case err != nil && run.Err() != nil && ctx.Err() == nil:
		return probe.Failure, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(command, " "), limit), nil
	case err != nil:
		return probe.Unknown, "", err
	case code != 0:
		return probe.Failure, out.String(), nil
	default:
		return probe.Success, out.String(), nil
	}
}

// expand fills in variables whose value stands in the spec, and no others (upstream: pkg/kubelet/container
// ExpandContainerCommandOnlyStatic).
func expand(command []string, env []v1.EnvVar) []string {
	values := make(map[string]string, len(env))
	for _, e := range env {
		values[e.Name] = e.Value
	}
	mapping := expansion.MappingFuncFor(values)
	out := make([]string, len(command))
	for i, arg := range command {
		out[i] = expansion.Expand(arg, mapping)
	}
	return out
}

// output is what a command wrote: stdout, then stderr, as upstream's runtime tells it.
type output struct{ stdout, stderr head }

func (o *output) String() string {
	all := string(o.stdout.kept) + string(o.stderr.kept)
	return all[:min(len(all), maxOutput)]
}

// head keeps the first maxOutput bytes of what is written to it.
type head struct{ kept []byte }

func (h *head) Write(b []byte) (int, error) {
	h.kept = append(h.kept, b[:min(len(b), maxOutput-len(h.kept))]...)
	return len(b), nil
}
