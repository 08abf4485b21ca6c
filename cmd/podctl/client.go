package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"podd/cmd/podctl/quick"
)

const (
	defaultSocket = quick.DefaultSocket
	host          = "http://podd" // never resolved: every connection goes to the socket

	// The contexts that podctl kubeconfig writes.
	adminContext  = "podd"
	readerContext = "podd-reader"
)

// client is how podctl reaches podd: over the unix socket or, if that is asked for, with a kubeconfig as kubectl
// does. It is what kubectl's commands get; nothing is connected, read or asked before it is needed.
type client struct {
	config *genericclioptions.ConfigFlags // the values of the flags

	socket string
	flags  *pflag.FlagSet
	warn   io.Writer // for warnings of the server

	unasked string // what a warning begins with that is about what nobody has asked for; "" for none

	tunnel tunnel
	broken atomic.Bool // podd went away in the middle of an answer

	mu      sync.Mutex
	dialErr error // of the last try to connect

	remote    func() bool // a kubeconfig says where podd is
	discovery func() (discovery.CachedDiscoveryInterface, error)
}

func (c *client) addFlags(flags *pflag.FlagSet) {
	socket := os.Getenv("PODD_SOCKET")
	if socket == "" {
		socket = defaultSocket
	}
	flags.StringVar(&c.socket, "socket", socket, "podd's API socket; the environment variable PODD_SOCKET sets the default")
	c.config = genericclioptions.NewConfigFlags(true)
	c.config.AddFlags(flags)
	// kubectl's words for these are about clusters and users, of which a host has one.
	flags.Lookup("namespace").Usage = "the namespace of this request (default \"default\")"
	flags.Lookup("kubeconfig").Usage = "reach podd with this kubeconfig, over TLS, instead of over the socket"
	flags.Lookup("context").Usage = "reach podd with this context of the kubeconfig, instead of over the socket"
	flags.Lookup("server").Usage = "the address of a podd's TLS port, instead of the socket"
	flags.Lookup("request-timeout").Usage = "how long to wait for one answer of podd, like 5s or 2m; 0 for no limit"
	for _, name := range []string{"cache-dir", "cluster", "user", "as", "as-uid", "as-group", "as-user-extra", "disable-compression", "tls-server-name",
		"insecure-skip-tls-verify", "certificate-authority", "client-certificate", "client-key"} {
		if flag := flags.Lookup(name); flag != nil {
			flag.Hidden = true
		}
	}
	c.flags = flags
	c.remote = sync.OnceValue(c.byKubeconfig)
	c.discovery = sync.OnceValues(c.discover)
}

// byKubeconfig tells whether podd is to be reached with a kubeconfig: a flag says so, or $KUBECONFIG does and its
// current context is one that podctl kubeconfig has written. A kubeconfig that is there for something else must not
// make podctl work on that.
func (c *client) byKubeconfig() bool {
	for _, name := range []string{"kubeconfig", "context", "server", "cluster", "user"} {
		if c.flags.Changed(name) {
			return true
		}
	}
	if os.Getenv("KUBECONFIG") == "" || os.Getenv("PODD_SOCKET") != "" || c.flags.Changed("socket") {
		return false
	}
	config, err := clientcmd.NewDefaultClientConfigLoadingRules().Load()
	return err == nil && (config.CurrentContext == adminContext || config.CurrentContext == readerContext)
}

// dial connects to the socket, whatever the address is.
func (c *client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "unix", strings.TrimPrefix(c.socket, "unix://"))
	if err == nil || ctx.Err() == nil {
		c.mu.Lock()
		c.dialErr = err
		c.mu.Unlock()
	}
	return conn, err
}

// unreachable says what to do if podd could not be connected to, or nothing.
func (c *client) unreachable() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch err := c.dialErr; {
	case err == nil:
		return ""
	case errors.Is(err, fs.ErrPermission):
		group := groupOf(c.socket)
		if _, err := user.LookupGroup(group); err != nil {
			return fmt.Sprintf("you may not open %s: use sudo. For others than root make the group %s (sudo groupadd --system %s), join it, and start podd again",
				c.socket, group, group)
		}
		return fmt.Sprintf("you may not open %s: join the group %s (and log in again) or use sudo", c.socket, group)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		if c.socket != defaultSocket {
			return fmt.Sprintf("podd is not running (nothing answers on %s): start it with --listen there, or leave out --socket and PODD_SOCKET, for %s",
				c.socket, defaultSocket)
		}
		return fmt.Sprintf("podd is not running (nothing answers on %s): start it with `systemctl start podd` or `podd`", c.socket)
	default:
		return err.Error()
	}
}

// groupOf is the group that may open the socket.
func groupOf(socket string) string {
	var st unix.Stat_t
	if unix.Stat(socket, &st) == nil && st.Gid != 0 {
		if g, err := user.LookupGroupId(strconv.Itoa(int(st.Gid))); err == nil {
			return g.Name
		}
	}
	return "podd"
}

// close ends what runs in this process for the client.
func (c *client) close() { c.tunnel.close() }

// http is for requests that are not kubectl's: a client and the address of podd.
func (c *client) http() (*http.Client, string, error) {
	if !c.remote() {
		return &http.Client{Transport: c.wired(&http.Transport{DialContext: c.dial, DisableCompression: true})}, host, nil
	}
	config, err := c.ToRESTConfig()
	if err != nil {
		return nil, "", err
	}
	config.Timeout = 0 // a pull takes as long as it takes
	hc, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, "", err
	}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, "", err
	}
	return hc, strings.TrimSuffix(base.String(), "/"), nil
}

// ToRESTConfig is where and how to speak.
func (c *client) ToRESTConfig() (*rest.Config, error) {
	var config *rest.Config
	if c.remote() {
		var err error
		if config, err = c.config.ToRESTConfig(); err != nil {
			return nil, err
		}
	} else {
		timeout, err := clientcmd.ParseTimeout(*c.config.Timeout)
		if err != nil {
			return nil, err
		}
		config = &rest.Config{
			Host: host, Dial: c.dial, Timeout: timeout,
			// Streams connect by themselves, to the address or through a proxy and nowhere else.
			Proxy: func(req *http.Request) (*url.URL, error) {
				if req.Header.Get("Upgrade") == "" {
					return nil, nil
				}
				return c.tunnel.open(c.dial)
			},
			Impersonate: rest.ImpersonationConfig{UserName: *c.config.Impersonate, UID: *c.config.ImpersonateUID, Groups: *c.config.ImpersonateGroup},
		}
	}
	config.Wrap(c.wired)
	config.UserAgent = "podctl/" + release()
	config.QPS = -1 // a client of one host need not hold itself back
	config.WarningHandler = asked{rest.NewWarningWriter(c.warn, rest.WarningWriterOptions{Deduplicate: true}), c}
	return config, nil
}

// asked leaves out the warnings that nobody has asked for.
type asked struct {
	rest.WarningHandler
	of *client
}

func (a asked) HandleWarningHeader(code int, agent, text string) {
	if a.of.unasked == "" || !strings.HasPrefix(text, a.of.unasked) {
		a.WarningHandler.HandleWarningHeader(code, agent, text)
	}
}

func (c *client) wired(inner http.RoundTripper) http.RoundTripper { return wire{inner, &c.broken} }

// ToDiscoveryClient asks what is served, once per run.
func (c *client) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	d, err := c.discovery()
	return categories{d}, err
}

// categories knows what "all" stands for without asking: kubectl's commands look that up for every argument.
type categories struct {
	discovery.CachedDiscoveryInterface
}

// ServerGroupsAndResources is a list for that look-up only.
func (categories) ServerGroupsAndResources() ([]*metav1.APIGroup, []*metav1.APIResourceList, error) {
	all := []string{"all"}
	return nil, []*metav1.APIResourceList{{
		GroupVersion: "v1",
		APIResources: []metav1.APIResource{{Name: "pods", Categories: all}, {Name: "services", Categories: all}},
	}}, nil
}

func (c *client) discover() (discovery.CachedDiscoveryInterface, error) {
	config, err := c.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	return memory.NewMemCacheClient(d), nil
}

// ToRESTMapper knows the kinds that podd always serves; for others it asks.
func (c *client) ToRESTMapper() (meta.RESTMapper, error) { return newMapper(c), nil }

// ToRawKubeConfigLoader holds the namespace; for the socket there is no file behind it.
func (c *client) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	if c.remote() {
		return c.config.ToRawKubeConfigLoader()
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["podd"] = &clientcmdapi.Cluster{Server: host}
	config.Contexts["podd"] = &clientcmdapi.Context{Cluster: "podd"}
	config.CurrentContext = "podd"
	overrides := &clientcmd.ConfigOverrides{}
	overrides.Context.Namespace = *c.config.Namespace
	return clientcmd.NewDefaultClientConfig(*config, overrides)
}
