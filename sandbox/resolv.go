package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Limits of a resolv.conf, from pkg/apis/core/validation.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
	maxSearch      = 253
	maxResolvConf  = 10 << 20 // bytes of the host's file that are read
)

// systemdResolvConf is where systemd-resolved keeps the servers it asks, when /etc/resolv.conf names only itself, at an
// address that is not to be reached from a pod.
const systemdResolvConf = "/run/systemd/resolve/resolv.conf"

func (s *Sandboxes) hostResolvConf() string {
	if s.opts.ResolvConf != "" {
		return s.opts.ResolvConf
	}
	b, err := os.ReadFile("/etc/resolv.conf")
	if err == nil && slices.Equal(parseResolvConf(b).servers, []string{"127.0.0.53"}) {
		if _, err := os.Stat(systemdResolvConf); err == nil {
			return systemdResolvConf
		}
	}
	return "/etc/resolv.conf"
}

// dns is the content of a resolv.conf.
type dns struct{ servers, searches, options []string }

// parseResolvConf reads as resolv.conf(5) says: servers add up, of search and of an option the last one wins.
func parseResolvConf(b []byte) dns {
	var d dns
	for line := range bytes.Lines(b[:min(len(b), maxResolvConf)]) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			d.servers = append(d.servers, fields[1])
		case "search":
			d.searches = nil
			for _, s := range fields[1:] {
				if s != "." {
					d.searches = append(d.searches, strings.TrimSuffix(s, "."))
				}
			}
		case "options":
			for _, o := range fields[1:] {
				d.setOption(o)
			}
		}
	}
	return d
}

// setOption replaces the option of that name, or adds it.
func (d *dns) setOption(o string) {
	name, _, _ := strings.Cut(o, ":")
	i := slices.IndexFunc(d.options, func(old string) bool { return old == name || strings.HasPrefix(old, name+":") })
	if i < 0 {
		d.options = append(d.options, o)
	} else {
		d.options[i] = o
	}
}

// EffectiveResolvConf is the pod's resolv.conf: what dnsPolicy takes from the host, then dnsConfig, then the limits
// (pkg/kubelet/network/dns). There is no cluster DNS, so ClusterFirst falls back to Default, with a note.
func EffectiveResolvConf(pod *v1.Pod, host []byte) (string, []Note) {
	d := parseResolvConf(host)
	var notes []Note
	switch pod.Spec.DNSPolicy {
	case v1.DNSNone:
		d = dns{}
	case v1.DNSDefault:
	default:
		if pod.Spec.DNSPolicy != v1.DNSClusterFirstWithHostNet && pod.Spec.HostNetwork {
			break
		}
		// The kubelet warns of it. Here it is so for every pod that does not say otherwise, and nothing is wrong.
		notes = append(notes, Note{v1.EventTypeNormal, "MissingClusterDNS", fmt.Sprintf(
			"There is no cluster DNS on this host: dnsPolicy %s works like Default", pod.Spec.DNSPolicy)})
	}
	if c := pod.Spec.DNSConfig; c != nil {
		d.servers = distinct(append(d.servers, c.Nameservers...))
		d.searches = distinct(append(d.searches, c.Searches...))
		for _, o := range c.Options {
			if o.Value != nil && *o.Value != "" {
				d.setOption(o.Name + ":" + *o.Value)
			} else {
				d.setOption(o.Name)
			}
		}
	}
	notes = append(notes, d.limit()...)
	return d.String(), notes
}

// limit cuts what is beyond the limits, with a note for each kind.
func (d *dns) limit() []Note {
	var notes []Note
	if len(d.servers) > maxNameservers {
		d.servers = d.servers[:maxNameservers]
		notes = append(notes, Note{v1.EventTypeWarning, "DNSConfigForming", fmt.Sprintf(
			"Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: %s", strings.Join(d.servers, " "))})
	}
	before := len(d.searches)
	d.searches = slices.DeleteFunc(d.searches[:min(before, maxSearches)], func(s string) bool { return len(s) > maxSearch })
	for len(strings.Join(d.searches, " ")) > maxSearchChars {
		d.searches = d.searches[:len(d.searches)-1]
	}
	if len(d.searches) < before {
		notes = append(notes, Note{v1.EventTypeWarning, "DNSConfigForming", fmt.Sprintf(
			"Search Line limits were exceeded, some search paths have been omitted, the applied search line is: %s", strings.Join(d.searches, " "))})
	}
	return notes
}

func (d *dns) String() string {
	var b strings.Builder
	if len(d.searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.searches, " "))
	}
	for _, s := range d.servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(d.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.options, " "))
	}
	return b.String()
}

// distinct keeps the first of each, in order.
func distinct(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
