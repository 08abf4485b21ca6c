package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	defaultSocket = "/run/podd/podd.sock"
	host          = "http://podd" // never resolved: every connection goes to the socket
)

// client is how podctl reaches podd. It is what kubectl's commands get instead of a kubeconfig; nothing is connected
// or asked before it is needed.
type client struct {
	socket    string
	namespace string
	timeout   time.Duration
	warn      io.Writer // for warnings of the server

	mu      sync.Mutex
	dialErr error // of the last connection that could not be made

	discovery func() (discovery.CachedDiscoveryInterface, error)
}

func (c *client) addFlags(flags *pflag.FlagSet) {
	socket := os.Getenv("PODD_SOCKET")
	if socket == "" {
		socket = defaultSocket
	}
	flags.StringVar(&c.socket, "socket", socket, "podd's API socket; the environment variable PODD_SOCKET sets the default")
	flags.StringVarP(&c.namespace, "namespace", "n", "", "the namespace of this request (default \"default\")")
	flags.DurationVar(&c.timeout, "request-timeout", 0, "how long to wait for one answer of the server; 0 for no limit")
	c.discovery = sync.OnceValues(c.discover)
}

// dial connects to the socket, whatever the address is.
func (c *client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "unix", c.socket)
	if err != nil && ctx.Err() == nil {
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
		return fmt.Sprintf("you may not open %s: join the group podd (and log in again) or use sudo", c.socket)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("podd is not running (nothing answers on %s): start it with `systemctl start podd` or `podd`", c.socket)
	default:
		return err.Error()
	}
}

// transport is for requests that are not kubectl's.
func (c *client) transport() *http.Transport {
	return &http.Transport{DialContext: c.dial, DisableCompression: true}
}

// ToRESTConfig is where and how to speak.
func (c *client) ToRESTConfig() (*rest.Config, error) {
	return &rest.Config{
		Host:           host,
		Dial:           c.dial,
		Timeout:        c.timeout,
		UserAgent:      "podctl/" + release(),
		QPS:            -1, // a client of one host need not hold itself back
		WarningHandler: rest.NewWarningWriter(c.warn, rest.WarningWriterOptions{Deduplicate: true}),
	}, nil
}

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
	return nil, []*metav1.APIResourceList{{
		GroupVersion: "v1",
		APIResources: []metav1.APIResource{{Name: "pods", Categories: []string{"all"}}},
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

// ToRawKubeConfigLoader holds the namespace; there is no file behind it.
func (c *client) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	config := clientcmdapi.NewConfig()
	config.Clusters["podd"] = &clientcmdapi.Cluster{Server: host}
	config.Contexts["podd"] = &clientcmdapi.Context{Cluster: "podd"}
	config.CurrentContext = "podd"
	overrides := &clientcmd.ConfigOverrides{}
	overrides.Context.Namespace = c.namespace
	return clientcmd.NewDefaultClientConfig(*config, overrides)
}
