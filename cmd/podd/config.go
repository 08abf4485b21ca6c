package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"podd/api"
	"podd/api/accounts"
	"podd/api/pressure"
)

// config is what the flags of podd and its configuration file say; both use the same names, and a flag wins.
type config struct {
	ConfigFile string `json:"-"`

	noManifests bool // do not follow the manifest directory, and do not record these settings: teardown

	Root         string `json:"root,omitempty"`
	SecretsKey   string `json:"secrets-key,omitempty"`
	State        string `json:"state,omitempty"`
	ConfigDir    string `json:"config-dir,omitempty"`
	LogDir       string `json:"log-dir,omitempty"`
	Listen       string `json:"listen,omitempty"`
	Group        string `json:"group,omitempty"`
	TLSListen    string `json:"tls-listen,omitempty"`
	Bundle       string `json:"bundle,omitempty"`
	CgroupParent string `json:"cgroup-parent,omitempty"`
	Namespace    string `json:"namespace,omitempty"`
	Containerd   string `json:"containerd,omitempty"`
	Bridge       string `json:"bridge,omitempty"`
	PodCIDR      string `json:"pod-cidr,omitempty"`
	ServiceCIDR  string `json:"service-cidr,omitempty"`
	Issuer       string `json:"service-account-issuer,omitempty"`
	NftTable     string `json:"nft-table,omitempty"`
	NodeName     string `json:"node-name,omitempty"`
	BootID       string `json:"boot-id-file,omitempty"`
	Programs     string `json:"host-programs,omitempty"`
	LogLevel     string `json:"log-level,omitempty"`

	LogMaxSize  int64    `json:"container-log-max-size,omitempty"`
	LogMaxFiles int      `json:"container-log-max-files,omitempty"`
	BackoffBase duration `json:"restart-backoff,omitempty"`
	BackoffMax  duration `json:"restart-backoff-max,omitempty"`
	PullBase    duration `json:"pull-backoff,omitempty"`
	Parallel    int      `json:"parallel-starts,omitempty"`
	MaxPods     int      `json:"max-pods,omitempty"`
	Handlers    handlers `json:"runtime-handler,omitempty"`

	EvictionHard   string   `json:"eviction-hard"` // "" is none
	PressurePeriod duration `json:"eviction-pressure-transition-period,omitempty"`
	ImageHigh      int      `json:"image-gc-high-threshold"`
	ImageLow       int      `json:"image-gc-low-threshold"`
	ImageAge       duration `json:"minimum-image-ttl-duration"`
}

// duration reads "10s" in YAML as well as on the command line.
type duration struct{ time.Duration }

func (d *duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := yaml.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%s: must be a time with its unit, like 10s or 5m", b)
	}
	d.Duration = v
	return nil
}

// defaults are those of a podd that has the host to itself.
func defaults() config {
	return config{
		ConfigFile: "/etc/podd/config.yaml",
		Root:       "/var/lib/podd", State: "/run/podd", ConfigDir: "/etc/podd", LogDir: "/var/log",
		Group: "podd", TLSListen: "127.0.0.1:6550", CgroupParent: "/podd", Namespace: "podd",
		Bridge: "podd0", PodCIDR: "10.85.0.0/16", ServiceCIDR: api.DefaultServiceCIDR, Issuer: accounts.DefaultIssuer, NftTable: "podd",
		BootID: "/proc/sys/kernel/random/boot_id", LogLevel: "info",
		Programs:   "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		LogMaxSize: 10 << 20, LogMaxFiles: 5,
		BackoffBase: duration{10 * time.Second}, BackoffMax: duration{300 * time.Second},
		PullBase: duration{10 * time.Second}, MaxPods: api.MaxPods,
		EvictionHard: pressure.Default, PressurePeriod: duration{5 * time.Minute},
		ImageHigh: 85, ImageLow: 80, ImageAge: duration{2 * time.Minute},
	}
}

func (c *config) flags(f *pflag.FlagSet) {
	f.StringVar(&c.ConfigFile, "config", c.ConfigFile, "configuration file; its keys are the names of these flags")
	f.StringVar(&c.Root, "root", c.Root, "directory of durable state")
	f.StringVar(&c.SecretsKey, "secrets-key", c.SecretsKey, "file of the keys that seal Secrets in the state (default <root>/secrets.key)")
	f.StringVar(&c.State, "state", c.State, "directory of run-time state, on a tmpfs")
	f.StringVar(&c.ConfigDir, "config-dir", c.ConfigDir, "directory with manifests/, cni/net.d/ and certs.d/")
	f.StringVar(&c.LogDir, "log-dir", c.LogDir, "parent of the directories pods/ and containers/ with the pods' logs")
	f.StringVar(&c.Listen, "listen", c.Listen, "unix socket of the API (default <state>/podd.sock)")
	f.StringVar(&c.Group, "group", c.Group, "group that may open the API socket")
	f.StringVar(&c.TLSListen, "tls-listen", c.TLSListen, "address and port of the API for kubectl; \"\" for none")
	f.StringVar(&c.Bundle, "bundle", c.Bundle, "directory of containerd, runc and the CNI plugins (default: beside podd)")
	f.StringVar(&c.CgroupParent, "cgroup-parent", c.CgroupParent, "cgroup that holds all pods")
	f.StringVar(&c.Namespace, "namespace", c.Namespace, "containerd namespace")
	f.StringVar(&c.Containerd, "containerd", c.Containerd, "socket of a containerd that already runs (default: podd runs its own)")
	f.StringVar(&c.Bridge, "bridge", c.Bridge, "bridge of the default pod network")
	f.StringVar(&c.PodCIDR, "pod-cidr", c.PodCIDR, "addresses of the default pod network")
	f.StringVar(&c.ServiceCIDR, "service-cidr", c.ServiceCIDR, "cluster IPs of services")
	f.StringVar(&c.Issuer, "service-account-issuer", c.Issuer, "https URL that service account tokens name as their issuer")
	f.StringVar(&c.NftTable, "nft-table", c.NftTable, "nftables table of podd's masquerade and host port rules")
	f.StringVar(&c.NodeName, "node-name", c.NodeName, "name of the node object (default: the hostname)")
	f.StringVar(&c.BootID, "boot-id-file", c.BootID, "file whose content changes with every boot")
	f.StringVar(&c.Programs, "host-programs", c.Programs, "directories of the host's mount helpers and iscsiadm, separated by colons")
	f.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error")
	f.Int64Var(&c.LogMaxSize, "container-log-max-size", c.LogMaxSize, "size in bytes at which a container's log is rotated")
	f.IntVar(&c.LogMaxFiles, "container-log-max-files", c.LogMaxFiles, "log files kept for a container, the live one included")
	f.DurationVar(&c.BackoffBase.Duration, "restart-backoff", c.BackoffBase.Duration, "first crash-loop back-off")
	f.DurationVar(&c.BackoffMax.Duration, "restart-backoff-max", c.BackoffMax.Duration, "longest crash-loop back-off")
	f.DurationVar(&c.PullBase.Duration, "pull-backoff", c.PullBase.Duration, "first back-off after a failed image pull")
	f.IntVar(&c.MaxPods, "max-pods", c.MaxPods, "pods that may be on this host at the same time")
	f.Var(&c.Handlers, "runtime-handler", "another OCI runtime or shim for RuntimeClasses, `NAME=RUNTIME`; may be repeated")
	f.StringVar(&c.EvictionHard, "eviction-hard", c.EvictionHard, "what the host should have left, else pods are evicted; \"\" for none")
	f.DurationVar(&c.PressurePeriod.Duration, "eviction-pressure-transition-period", c.PressurePeriod.Duration, "how long the node's condition holds after there was too little left")
	f.IntVar(&c.ImageHigh, "image-gc-high-threshold", c.ImageHigh, "percent of the images' disk in use at which unused images are taken away; 100 for never")
	f.IntVar(&c.ImageLow, "image-gc-low-threshold", c.ImageLow, "percent down to which they are")
	f.DurationVar(&c.ImageAge.Duration, "minimum-image-ttl-duration", c.ImageAge.Duration, "how long an image stays at least")
	f.IntVar(&c.Parallel, "parallel-starts", c.Parallel, "containers started at the same time (default: twice the processors)")
}

// load reads the configuration file below the flags that were given. A file that was named must be there.
func (c *config) load(f *pflag.FlagSet) error {
	data, err := os.ReadFile(c.ConfigFile)
	if errors.Is(err, fs.ErrNotExist) && !f.Changed("config") {
		return c.complete()
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	given := map[string]string{}
	f.Visit(func(fl *pflag.Flag) { given[fl.Name] = fl.Value.String() })
	if err := yaml.UnmarshalStrict(data, c); err != nil {
		return fmt.Errorf("read configuration %s: %s", c.ConfigFile, plainly(err))
	}
	var keys map[string]any
	_ = yaml.Unmarshal(data, &keys)
	for key := range keys { // the decoder takes Root for root
		if f.Lookup(key) == nil {
			return fmt.Errorf("read configuration %s: unknown key %q", c.ConfigFile, key)
		}
	}
	for name, value := range given {
		if err := f.Set(name, value); err != nil {
			return fmt.Errorf("flag --%s: %w", name, err)
		}
	}
	return c.complete()
}

// complete fills in what depends on the rest and on the host, and checks what can be checked before anything is touched.
func (c *config) complete() error {
	if c.Listen == "" {
		c.Listen = filepath.Join(c.State, "podd.sock")
	}
	if c.SecretsKey == "" {
		c.SecretsKey = filepath.Join(c.Root, "secrets.key")
	}
	if c.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("read the hostname: %w", err)
		}
		c.NodeName = name
	}
	if c.Bundle == "" {
		dir, err := besideMe()
		if err != nil {
			return err
		}
		c.Bundle = dir
	}
	return c.check()
}

// namespaceName is what containerd takes for one.
var namespaceName = regexp.MustCompile(`^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$`)

// check finds values that podd could not work with. The names are those of flags and of keys in the file.
func (c *config) check() error {
	for _, d := range []struct{ name, path string }{
		{"root", c.Root}, {"state", c.State}, {"config-dir", c.ConfigDir}, {"log-dir", c.LogDir}, {"bundle", c.Bundle},
		{"secrets-key", c.SecretsKey}, {"listen", c.Listen}, // these are below root and state unless something else is said
	} {
		if !filepath.IsAbs(d.path) {
			return fmt.Errorf("%s %q: must be an absolute path", d.name, d.path)
		}
	}
	pods, err := netip.ParsePrefix(c.PodCIDR)
	if err != nil {
		return fmt.Errorf("pod-cidr %q: must be a range of addresses, like 10.85.0.0/16", c.PodCIDR)
	}
	if services, err := netip.ParsePrefix(c.ServiceCIDR); err != nil || services.Overlaps(pods) {
		return fmt.Errorf("service-cidr %q: must be a range of addresses beside the pods', like 10.84.0.0/16", c.ServiceCIDR)
	}
	if c.TLSListen != "" {
		if _, port, err := net.SplitHostPort(c.TLSListen); err != nil || !isPort(port) {
			return fmt.Errorf("tls-listen %q: must be an address and a port, like 127.0.0.1:6550", c.TLSListen)
		}
	}
	if err := accounts.CheckName(c.Issuer); err != nil {
		return fmt.Errorf("service-account-issuer: %w", err)
	}
	if wrong := validation.IsDNS1123Subdomain(c.NodeName); len(wrong) > 0 {
		return fmt.Errorf("node-name %q: must be lowercase letters, digits, '-' and '.'", c.NodeName)
	}
	if !namespaceName.MatchString(c.Namespace) || len(c.Namespace) > 76 {
		return fmt.Errorf("namespace %q: must be at most 76 letters and digits, with single '-', '.' or '_' between them", c.Namespace)
	}
	if c.LogMaxSize < 1 {
		return fmt.Errorf("container-log-max-size %d: must be at least 1 byte", c.LogMaxSize)
	}
	if c.LogMaxFiles < 1 {
		return fmt.Errorf("container-log-max-files %d: must be at least 1", c.LogMaxFiles)
	}
	for name, d := range map[string]duration{
		"restart-backoff": c.BackoffBase, "restart-backoff-max": c.BackoffMax, "pull-backoff": c.PullBase,
		"eviction-pressure-transition-period": c.PressurePeriod,
	} {
		if d.Duration <= 0 {
			return fmt.Errorf("%s %v: must be more than nothing", name, d.Duration)
		}
	}
	if _, err := pressure.Parse(c.EvictionHard); err != nil {
		return fmt.Errorf("eviction-hard: %w", err)
	}
	if c.ImageHigh < 1 || c.ImageHigh > 100 {
		return fmt.Errorf("image-gc-high-threshold %d: must be from 1 to 100", c.ImageHigh)
	}
	if c.ImageLow < 0 || c.ImageLow >= c.ImageHigh {
		return fmt.Errorf("image-gc-low-threshold %d: must be from 0 to below image-gc-high-threshold, which is %d", c.ImageLow, c.ImageHigh)
	}
	if c.ImageAge.Duration < 0 {
		return fmt.Errorf("minimum-image-ttl-duration %v: must not be negative", c.ImageAge)
	}
	if err := c.Handlers.check(); err != nil {
		return err
	}
	if c.MaxPods < 1 {
		return fmt.Errorf("max-pods %d: must be at least 1", c.MaxPods)
	}
	if c.Parallel < 0 {
		return fmt.Errorf("parallel-starts %d: must not be negative", c.Parallel)
	}
	return nil
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// plainly says what is wrong with the file without the names of decoders and Go types.
func plainly(err error) string {
	s := err.Error()
	for _, prefix := range []string{"error unmarshaling JSON: ", "while decoding JSON: ", "error converting YAML to JSON: ", "json: ", "yaml: "} {
		s = strings.TrimPrefix(s, prefix)
	}
	if what, rest, ok := strings.Cut(s, " into Go struct field config."); ok {
		key, kind, _ := strings.Cut(rest, " of type ")
		kind = strings.NewReplacer("int64", "a whole number", "int", "a whole number", "string", "a string").Replace(kind)
		return fmt.Sprintf("%s: must be %s, not %s", key, kind, strings.NewReplacer("array", "a list", "object", "a mapping", "number", "a number", "string", "a string", "bool", "true or false").
			Replace(strings.TrimPrefix(what, "cannot unmarshal ")))
	}
	if strings.Contains(s, " into Go value of type ") {
		return "must be lines of `key: value`"
	}
	return strings.Replace(s, "unknown field", "unknown key", 1)
}

// besideMe finds the node bundle: libexec/podd next to the directory podd is in, or that directory itself.
func besideMe() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find podd's own binary: %w", err)
	}
	dir := filepath.Dir(exe)
	for _, d := range []string{filepath.Join(dir, "..", "libexec", "podd"), dir} {
		if _, err := os.Stat(filepath.Join(d, "containerd")); err == nil {
			return filepath.Clean(d), nil
		}
	}
	return filepath.Clean(filepath.Join(dir, "..", "libexec", "podd")), nil
}
