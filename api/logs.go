package api

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	gwebsocket "github.com/gorilla/websocket"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/streaming/pkg/httpstream/wsstream"
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
// status is out already, and the stream ends. A pod that has no node yet has no log either: no reader, and no error
// (pkg/registry/core/pod/strategy.go LogLocation).
func (l *logStream) InputStream(ctx context.Context, _, _ string) (io.ReadCloser, bool, string, error) {
	if l.pod.Spec.NodeName == "" {
		return nil, false, "", nil
	}
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

// logPaths serves logs by WebSocket. Upstream's endpoint would too, but the library that it uses waits for ever for a client
// that goes during the handshake.
func (s *Server) logPaths(mux *http.ServeMux) {
	mux.HandleFunc("/api/v1/namespaces/{namespace}/pods/{name}/log", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !wsstream.IsWebSocketRequest(r) {
			s.routes.ServeHTTP(w, r)
			return
		}
		if err := s.serveLogSocket(w, r); err != nil {
			respondError(w, r, err)
		}
	})
}

// The protocols of logs by WebSocket: each message is a piece of the log, as it is or in base64. Who names no protocol gets
// the first.
const (
	logBinary = "binary.k8s.io"
	logBase64 = "base64.binary.k8s.io"
)

// serveLogSocket returns an error only while the request can still be answered with one.
func (s *Server) serveLogSocket(w http.ResponseWriter, r *http.Request) error {
	opts := &core.PodLogOptions{}
	err := legacyscheme.ParameterCodec.DecodeParameters(r.URL.Query(), schema.GroupVersion{Version: "v1"}, opts)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	ctx, cancel := context.WithCancel(request.WithNamespace(r.Context(), r.PathValue("namespace")))
	defer cancel()
	found, err := (&logREST{server: s}).Get(ctx, r.PathValue("name"), opts)
	if err != nil {
		return err
	}
	in, _, _, err := found.(*logStream).InputStream(ctx, "", "")
	if err != nil {
		return err
	}
	if in == nil {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	defer in.Close()
	upgrader := gwebsocket.Upgrader{Subprotocols: []string{logBinary, logBase64}, WriteBufferSize: logChunk + 16}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil // the library has answered
	}
	gone := make(chan struct{})
	go func() { // the client has nothing to say; that it closes is an end, too
		defer close(gone)
		defer cancel()
		for {
			if _, _, err := ws.NextReader(); err != nil {
				return
			}
		}
	}()
	if copyLog(ws, in) == nil {
		_ = ws.WriteControl(gwebsocket.CloseMessage, gwebsocket.FormatCloseMessage(gwebsocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	}
	_ = ws.Close()
	<-gone
	return nil
}

// logChunk is the longest piece of a log in one message.
const logChunk = 32 << 10

// copyLog sends a log in messages, an empty one first: a silent log is open then, too.
func copyLog(ws *gwebsocket.Conn, in io.Reader) error {
	kind, encode := gwebsocket.BinaryMessage, func(_, piece []byte) []byte { return piece }
	if ws.Subprotocol() == logBase64 {
		kind, encode = gwebsocket.TextMessage, base64.StdEncoding.AppendEncode
	}
	if err := ws.WriteMessage(kind, nil); err != nil {
		return err
	}
	var encoded []byte
	for piece := make([]byte, logChunk); ; {
		n, err := in.Read(piece)
		if n > 0 {
			encoded = encode(encoded[:0], piece[:n])
			if err := ws.WriteMessage(kind, encoded); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
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
