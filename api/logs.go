package api

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

// podOf is the pod a subresource is asked of.
func (s *Server) podOf(ctx context.Context, name string) (*v1.Pod, error) {
	pod, ok := s.Store.Pod(request.NamespaceValue(ctx), name)
	if !ok {
		return nil, apierrors.NewNotFound(v1.Resource("pods"), name)
	}
	return pod, nil
}

// containerOf checks the container's name, or finds the only one. The words are upstream's
// (pkg/registry/core/pod/strategy.go), because clients know them.
func containerOf(pod *v1.Pod, name string) (string, error) {
	var names []string
	for _, c := range pod.Spec.InitContainers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	if name == "" {
		if len(pod.Spec.Containers) == 1 {
			return pod.Spec.Containers[0].Name, nil
		}
		return "", apierrors.NewBadRequest(fmt.Sprintf(
			"a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(names, " ")))
	}
	for _, c := range pod.Spec.EphemeralContainers {
		names = append(names, c.Name)
	}
	for _, n := range names {
		if n == name {
			return name, nil
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
}

// logREST is pods/log.
type logREST struct{ server *Server }

var (
	_ rest.GetterWithOptions = (*logREST)(nil)
	_ rest.StorageMetadata   = (*logREST)(nil)
	_ rest.ResourceStreamer  = (*logStream)(nil)
	_ runtime.Object         = (*logStream)(nil)
	_ rest.Storage           = (*logREST)(nil)
)

func (r *logREST) New() runtime.Object { return &core.Pod{} }
func (r *logREST) Destroy()            {}

func (r *logREST) ProducesMIMETypes(string) []string { return []string{"text/plain"} }
func (r *logREST) ProducesObject(string) any         { return "" }

func (r *logREST) NewGetOptions() (runtime.Object, bool, string) {
	return &core.PodLogOptions{}, false, ""
}

func (r *logREST) Get(ctx context.Context, name string, options runtime.Object) (runtime.Object, error) {
	internal, ok := options.(*core.PodLogOptions)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("invalid options object: %T", options))
	}
	if internal.Stream == nil {
		all := core.LogStreamAll
		internal.Stream = &all
	}
	if errs := validation.ValidatePodLogOptions(internal, true); len(errs) > 0 {
		return nil, apierrors.NewInvalid(core.Kind("PodLogOptions"), name, errs)
	}
	opts := &v1.PodLogOptions{}
	if err := legacyscheme.Scheme.Convert(internal, opts, nil); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	pod, err := r.server.podOf(ctx, name)
	if err != nil {
		return nil, err
	}
	if opts.Container, err = containerOf(pod, opts.Container); err != nil {
		return nil, err
	}
	return &logStream{runtime: r.server.Runtime, pod: pod, opts: opts}, nil
}

// logStream is what the log endpoint answers with instead of an object.
type logStream struct {
	runtime Runtime
	pod     *v1.Pod
	opts    *v1.PodLogOptions
}

func (l *logStream) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }
func (l *logStream) DeepCopyObject() runtime.Object   { c := *l; return &c }

// InputStream starts the reader. An error that comes before the first byte is the answer to the request; later the
// status is out already, and the stream ends.
func (l *logStream) InputStream(ctx context.Context, _, _ string) (io.ReadCloser, bool, string, error) {
	patience := requestTimeout
	if l.opts.Follow {
		patience = 3 * time.Second // of a silent log its follower wants the headers
	}
	ctx, cancel := context.WithCancel(ctx)
	in, out := io.Pipe()
	started := &firstWrite{out: out, began: make(chan struct{})}
	stream := &logReader{PipeReader: in, cancel: cancel, done: make(chan struct{})}
	var err error
	go func() { // logReader.Close waits for it
		defer close(stream.done)
		err = l.runtime.Logs(ctx, l.pod, l.opts, started)
		_ = out.CloseWithError(err)
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-started.began:
	case <-timer.C:
	case <-stream.done:
		if err != nil {
			cancel()
			return nil, false, "", statusOf(err)
		}
	}
	return stream, l.opts.Follow, "text/plain", nil
}

// statusOf keeps errors that are a status already; others are the server's.
func statusOf(err error) error {
	if apierrors.ReasonForError(err) != "" {
		return err
	}
	return apierrors.NewInternalError(err)
}

type firstWrite struct {
	out   io.Writer
	began chan struct{}
	once  bool
}

func (f *firstWrite) Write(p []byte) (int, error) {
	if !f.once {
		f.once = true
		close(f.began)
	}
	return f.out.Write(p)
}

type logReader struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
}

func (r *logReader) Close() error {
	r.cancel()
	err := r.PipeReader.Close()
	<-r.done
	return err
}
