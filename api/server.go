// Package api serves the Kubernetes API of one host: upstream's endpoints and registries (package backend puts them on
// podd's store), in a filter chain of podd's own.
//
// resources.go is the table of what is served. What the API asks of whoever runs the pods is the interface Runtime.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emicklei/go-restful/v3"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/pkg/capabilities"

	"podd/api/accounts"
	"podd/api/pki"
	"podd/store"
)

// Config is what a server needs.
type Config struct {
	Store       *store.Store
	Runtime     Runtime
	NodeName    string   // a DNS subdomain
	NodeIPs     []string // primary first, at most one per family
	SocketPath  string
	SocketGroup string        // group that may use the socket; "podd" when empty
	ServiceCIDR string        // of cluster IPs; DefaultServiceCIDR when empty
	Version     string        // of podd
	Containerd  func() string // version of containerd, for the node's status; "" or nil: not known
	Host        Host          // what is told of podd's host
	Directories Directories   // of the volumes that podd makes; nil: it makes none
	Log         *slog.Logger

	TLSListen string       // address and port of the TLS port; none when empty
	Gateways  []netip.Addr // where pods reach the host
	PKIDir    string       // of its certificates, and of the key of service account tokens
	Issuer    string       // of service account tokens; accounts.DefaultIssuer when empty
}

// Server is the API.
type Server struct {
	Config

	routes    *routes
	handler   http.Handler
	admit     admission.MutationInterface
	registry  registries
	imagesOld atomic.Bool // the host's images have changed since the node object was told of them

	authorizer *roles
	patience   patience
	pki        *pki.PKI // nil without PKIDir
	issuer     *accounts.Issuer
	gate       *gate        // the TLS port; nil until Listen
	inside     *inside      // and the same for pods
	address    atomic.Value // net.Addr of the TLS port, once it is open
	watched    sync.Map     // *stallWriter and *takenConn: who may be cut off
	commands   bound        // run by clients
	orphans    orphans
	bearers    bearers

	serving chan struct{} // closed when Run serves

	stored  storedKinds
	pressed chan struct{} // capacity 1: the host's pressure has changed
	noding  sync.Mutex    // held while the node's status is made and told of, so that each change is told once
	known   atomic.Pointer[knownNode]
	room    *room
	events  chan *v1.Event
}

// gates are the features that upstream has off and podd has on. Without theirs, upstream drops the fields.
const gates = "ContainerStopSignals=true"

// New makes a server; it starts nothing.
func New(c Config) (*Server, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.SocketGroup == "" {
		c.SocketGroup = "podd"
	}
	if c.ServiceCIDR == "" {
		c.ServiceCIDR = DefaultServiceCIDR
	}
	if err := utilfeature.DefaultMutableFeatureGate.Set(gates); err != nil {
		return nil, err
	}
	capabilities.Setup(true, 0) // upstream's validation refuses privileged containers unless told this; once per process
	s := &Server{Config: c, events: make(chan *v1.Event, 1000), room: newRoom(), serving: make(chan struct{}), pressed: make(chan struct{}, 1),
		authorizer: &roles{access: access{c.Store}}, patience: defaultPatience()}
	s.commands.name, s.commands.limit = "commands in containers", maxCommands
	if err := s.openPKI(); err != nil {
		return nil, err
	}
	if err := s.openIssuer(); err != nil {
		return nil, err
	}
	s.admit = &admit{server: s}
	if err := s.install(); err != nil {
		return nil, fmt.Errorf("make API: %w", err)
	}
	return s, nil
}

// Handler serves the API without a listener, to root.
func (s *Server) Handler() http.Handler { return as(root, s.handler) }

// Serving is closed when Run serves.
func (s *Server) Serving() <-chan struct{} { return s.serving }

// Run serves until ctx is done and everything is down. It is called once.
func (s *Server) Run(ctx context.Context) error {
	if err := s.ensureNamespaces(ctx); err != nil {
		return err
	}
	if err := s.ensureClasses(ctx); err != nil {
		return err
	}
	if err := s.ensureStandard(ctx); err != nil {
		return err
	}
	if err := s.ensureNode(ctx); err != nil {
		return err
	}
	if err := s.Listen(ctx); err != nil {
		return err
	}
	if err := s.ensureKubernetes(ctx); err != nil {
		s.closePorts()
		return err
	}
	listener, err := s.listen()
	if err != nil {
		s.closePorts()
		return fmt.Errorf("listen on %s: %w", s.SocketPath, err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	wg.Go(func() { s.recordEvents(ctx) })
	wg.Go(func() { s.keepNode(ctx) })
	wg.Go(func() { s.keepMeaning(ctx) })
	wg.Go(func() { s.expire(ctx) })
	wg.Go(func() { s.cutStalled(ctx) })
	if s.pki != nil {
		wg.Go(func() { s.pki.Run(ctx) })
	}
	if s.gate != nil {
		wg.Go(func() {
			if err := s.serveTLS(ctx); err != nil {
				cancel(err)
			}
		})
	}
	server := s.httpServer()
	server.ConnContext = withPeer
	close(s.serving)
	err = serve(ctx, server, func() error { return server.Serve(listener) })
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

func (s *Server) httpServer() *http.Server {
	return &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: s.patience.header,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
}

// serve ends when ctx is done: requests get a second to end by themselves, and are then cut off.
func serve(ctx context.Context, server *http.Server, accept func() error) error {
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server.BaseContext = func(net.Listener) context.Context { return untilStop(base) }
	server.RegisterOnShutdown(cut) // watches and streams end when nobody can connect any more: who asks then knows why
	done := make(chan error, 1)
	go func() { done <- accept() }()
	select {
	case err := <-done:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, stop := context.WithTimeout(context.WithoutCancel(base), time.Second)
	defer stop()
	if err := server.Shutdown(grace); err != nil {
		_ = server.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// listen makes the socket. What an earlier podd left there goes away: the state file's lock says that there is no other.
func (s *Server) listen() (net.Listener, error) {
	if err := os.Remove(s.SocketPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	fresh := s.SocketPath + ".new" // nobody connects before the mode is right
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(fresh, 0o600), s.giveToGroup(fresh), os.Rename(fresh, s.SocketPath)); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// giveToGroup lets the group use the socket. Without that group it stays root's own.
func (s *Server) giveToGroup(path string) error {
	group, err := user.LookupGroup(s.SocketGroup)
	if err != nil {
		s.Log.Info("only root may use the API: there is no such group", "group", s.SocketGroup, "socket", s.SocketPath)
		return nil
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		return err
	}
	return errors.Join(os.Chown(path, -1, gid), os.Chmod(path, 0o660))
}

// expire removes events whose time is over.
func (s *Server) expire(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for now := time.Now(); ; { // also what has expired while podd was down
		if err := s.Store.Expire(ctx, now); err != nil && !errors.Is(err, store.ErrClosed) {
			s.Log.Warn("old events stay", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case now = <-tick.C:
		}
	}
}

// WebServices are the routes under /api and /apis, for the generator of the OpenAPI documents.
func (s *Server) WebServices() ([]*restful.WebService, error) {
	s.routes.mu.Lock()
	defer s.routes.mu.Unlock()
	all, err := s.routes.all()
	if err != nil {
		return nil, err
	}
	return all.RegisteredWebServices(), nil
}
