package network

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"podd/runtime/killpoint"
)

// defaultConf is the file that podd writes when the directory has no configuration.
const defaultConf = "10-podd.conflist"

var errNoConf = errors.New("no network configuration")

// conf is one configuration list, complete in itself.
type conf struct {
	file string
	list *libcni.NetworkConfigList
	own  bool // podd's own default: podd cares for bridge and masquerade
	ipam []ipam
}

// ipam is the part of a host-local configuration that podd understands.
type ipam struct {
	Type    string `json:"type"`
	DataDir string `json:"dataDir"`
	Subnet  string `json:"subnet"`
	Ranges  [][]struct {
		Subnet string `json:"subnet"`
	} `json:"ranges"`
}

// conf reads the first configuration by name. One that cannot be understood is an error and not passed over: pods
// would silently end up in another network.
func (n *Network) conf() (*conf, error) {
	names, err := listDir(n.o.ConfDir)
	if err != nil {
		return nil, fmt.Errorf("list network configurations: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		ext := filepath.Ext(name)
		if strings.HasPrefix(name, ".") || (ext != ".conflist" && ext != ".conf" && ext != ".json") {
			continue
		}
		path := filepath.Join(n.o.ConfDir, name)
		list, err := loadConf(path)
		if err != nil {
			return nil, fmt.Errorf("network configuration %s: %w", path, err)
		}
		c, err := newConf(list)
		if err != nil {
			return nil, fmt.Errorf("network configuration %s: %w", path, err)
		}
		c.file, c.own = path, name == defaultConf
		return c, nil
	}
	return nil, fmt.Errorf("%s: %w", n.o.ConfDir, errNoConf)
}

// ensureConf is conf, after podd's default was written if there was none: the first pods may come before Setup does.
func (n *Network) ensureConf() (*conf, error) {
	n.writing.Lock()
	defer n.writing.Unlock()
	c, err := n.conf()
	if !errors.Is(err, errNoConf) {
		return c, err
	}
	if err := n.writeDefault(); err != nil {
		return nil, err
	}
	return n.conf()
}

// loadConf reads a list, or a single plugin as a list of one.
func loadConf(path string) (*libcni.NetworkConfigList, error) {
	if filepath.Ext(path) == ".conflist" {
		return libcni.NetworkConfFromFile(path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	plugin, err := libcni.NetworkPluginConfFromBytes(b)
	if err != nil {
		return nil, err
	}
	return &libcni.NetworkConfigList{
		Name: plugin.Network.Name, CNIVersion: plugin.Network.CNIVersion, Plugins: []*libcni.PluginConfig{plugin},
	}, nil
}

// newConf makes a list self-contained: plugins that libcni found in other files are written into it, so that the
// record of a pod is enough to run DEL later.
func newConf(list *libcni.NetworkConfigList) (*conf, error) {
	if list.Name == "" {
		return nil, errors.New("has no name")
	}
	plugins := make([]json.RawMessage, 0, len(list.Plugins))
	c := &conf{}
	for _, p := range list.Plugins {
		plugins = append(plugins, p.Bytes)
		var known struct {
			IPAM ipam `json:"ipam"`
		}
		if err := json.Unmarshal(p.Bytes, &known); err == nil && known.IPAM.Type == "host-local" {
			c.ipam = append(c.ipam, known.IPAM)
		}
	}
	b, err := json.Marshal(map[string]any{
		"name": list.Name, "cniVersion": list.CNIVersion, "plugins": plugins,
		"disableCheck": list.DisableCheck, "disableGC": list.DisableGC,
	})
	if err != nil {
		return nil, err
	}
	if c.list, err = libcni.NetworkConfFromBytes(b); err != nil {
		return nil, err
	}
	return c, nil
}

// subnets are the pod ranges that the configuration names.
func (c *conf) subnets() []netip.Prefix {
	var all []netip.Prefix
	add := func(s string) {
		if p, err := netip.ParsePrefix(s); err == nil && !slices.Contains(all, p.Masked()) {
			all = append(all, p.Masked())
		}
	}
	for _, i := range c.ipam {
		add(i.Subnet)
		for _, set := range i.Ranges {
			for _, r := range set {
				add(r.Subnet)
			}
		}
	}
	return all
}

// mapsPorts says whether a plugin of the list cares for host ports itself.
func (c *conf) mapsPorts() bool { return c.has("portMappings") }

// has says whether a plugin of the list has a capability.
func (c *conf) has(capability string) bool {
	return slices.ContainsFunc(c.list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities[capability] })
}

func (n *Network) writeDefault() error {
	b, err := n.defaultList()
	if err != nil {
		return err
	}
	killpoint.At("network.conf.before")
	path := filepath.Join(n.o.ConfDir, defaultConf)
	if err := replaceFile(path, b); err != nil {
		return fmt.Errorf("write network configuration: %w", err)
	}
	killpoint.At("network.conf.after")
	n.o.Log.Info("wrote the default network configuration", "file", path, "range", n.o.Range.String())
	return nil
}

// defaultList is a bridge with addresses from the pod range. Masquerade is podd's own static rule and not the
// plugin's, which costs several executions of iptables or nft for every pod. Hairpin lets a pod reach itself through
// its own host port.
func (n *Network) defaultList() ([]byte, error) {
	route := "0.0.0.0/0"
	if n.o.Range.Addr().Is6() {
		route = "::/0"
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0",
		"name":       "podd",
		"plugins": []any{map[string]any{
			"type":        "bridge",
			"bridge":      n.o.Bridge,
			"isGateway":   true,
			"ipMasq":      false,
			"hairpinMode": true,
			"ipam": map[string]any{
				"type":    "host-local",
				"dataDir": n.o.ipamDir(),
				"ranges":  [][]map[string]string{{{"subnet": n.o.Range.String()}}},
				"routes":  []map[string]string{{"dst": route}},
			},
		}},
	}, "", "  ")
}

// RemoveDefault takes away the configuration that podd wrote, if nobody has changed it, and tells which file that was.
func (n *Network) RemoveDefault() (file string, err error) {
	n.writing.Lock()
	defer n.writing.Unlock()
	path := filepath.Join(n.o.ConfDir, defaultConf)
	have, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if want, err := n.defaultList(); err != nil || !bytes.Equal(have, want) {
		return "", err
	}
	return path, os.Remove(path)
}
