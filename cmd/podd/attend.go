package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/utils/exec"

	"podd/api"
	"podd/api/history"
	apiimages "podd/api/images"
	"podd/runtime"
	"podd/runtime/containers"
	"podd/runtime/images"
	"podd/runtime/stats"
)

// attendant is what the API asks of whoever runs the pods, in the API's own types.
type attendant struct {
	runtime *runtime.Runtime
	images  *images.Images
	client  *containers.Client
	stats   *stats.Stats
}

var _ api.Runtime = (*attendant)(nil)

func (a *attendant) Healthy() error { return a.runtime.Healthy() }

func (a *attendant) Logs(ctx context.Context, pod *v1.Pod, opts *v1.PodLogOptions, out io.Writer) error {
	return a.runtime.Logs(ctx, pod, opts, out)
}

func (a *attendant) Exec(ctx context.Context, pod *v1.Pod, container string, cmd []string, in io.Reader, out, errs io.WriteCloser,
	tty bool, resize <-chan remotecommand.TerminalSize) error {
	e := containers.Exec{Cmd: cmd, TTY: tty, Stdin: in}
	if out != nil {
		e.Stdout = out
	}
	if errs != nil {
		e.Stderr = errs
	}
	sizes, stop := sizesOf(ctx, resize)
	defer stop()
	e.Resize = sizes
	code, err := a.runtime.Exec(ctx, pod, container, e)
	if errors.Is(err, containers.ErrTooManyExecs) {
		return apierrors.NewTooManyRequests(err.Error(), 1)
	}
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

// starting is how long a question about images waits for a containerd that is being started; pods have a patience of their own.
const starting = 10 * time.Second

// awaitContainerd returns when containerd answers, or has not for as long as its start may take: what comes then says why.
func (a *attendant) awaitContainerd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, starting)
	defer cancel()
	for a.client.Ready(ctx) != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (a *attendant) Images(ctx context.Context) ([]api.ImageInfo, error) {
	a.awaitContainerd(ctx)
	infos, err := a.images.List(ctx)
	if err != nil {
		return nil, err
	}
	return infosOf(infos), nil
}

func infosOf(infos []images.Info) []api.ImageInfo {
	out := make([]api.ImageInfo, 0, len(infos))
	for _, i := range infos {
		out = append(out, infoOf(i))
	}
	return out
}

func infoOf(i images.Info) api.ImageInfo {
	return api.ImageInfo{Name: i.Name, ID: i.ID, Digest: i.Digest, Size: i.Size, Created: i.Created}
}

func (a *attendant) PullImage(ctx context.Context, ref string, progress func(api.PullProgress)) (api.ImageInfo, error) {
	a.awaitContainerd(ctx)
	info, err := a.images.Pull(ctx, ref, func(p images.Progress) {
		out := api.PullProgress{Ref: p.Ref, Status: p.Status}
		for _, l := range p.Layers {
			out.Layers = append(out.Layers, apiimages.Layer{Digest: l.Digest, Status: l.Status, Offset: l.Offset, Total: l.Total})
		}
		progress(out)
	})
	a.runtime.ImagesCame()
	return infoOf(info), err
}

func (a *attendant) LoadImages(ctx context.Context, r io.Reader) ([]api.ImageInfo, error) {
	a.awaitContainerd(ctx)
	infos, err := a.images.Load(ctx, r)
	a.runtime.ImagesCame()
	return infosOf(infos), err
}

func (a *attendant) History(namespace, name, uid string) ([]history.Pod, error) {
	return a.runtime.History.Pods(namespace, name, uid)
}

func (a *attendant) RemoveImage(ctx context.Context, ref string) error {
	a.awaitContainerd(ctx)
	err := a.images.Remove(ctx, ref, func(name string) ([]string, error) { return a.runtime.ImageUsers(ctx, name) })
	if errors.Is(err, images.ErrInUse) {
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: metav1.StatusReasonConflict,
			Message: err.Error() + ": delete that first",
		}}
	}
	return err
}
