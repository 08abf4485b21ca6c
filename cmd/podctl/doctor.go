package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"sigs.k8s.io/yaml"
)

// result of one check.
type result struct {
	Name   string `json:"name"`
	Level  level  `json:"result"`
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"` // what to do; empty if it is ok
}

type level string

const (
	ok   level = "ok"
	warn level = "warn" // works, but not well or not for long
	bad  level = "fail"
	skip level = "skip" // not looked at: only root may
)

// place is where podd has its things: what the podd says that answers, else its configuration file, or the defaults of podd.
type place struct {
	Root       string `json:"root"`
	State      string `json:"state"`
	ConfigDir  string `json:"config-dir"`
	LogDir     string `json:"log-dir"`
	Group      string `json:"group"`
	Bundle     string `json:"bundle"`
	Containerd string `json:"containerd"`
	Bridge     string `json:"bridge"`

	Handlers map[string]string `json:"runtime-handler"`

	assumed bool // a podd may be there that may not be asked, and has its things elsewhere
}

// doctor checks what podd needs of the host, and podd itself if it runs. Each check is a function that looks and says;
// nothing is changed, and nothing needs podd to be up.
func (p *podctl) doctor() *cobra.Command {
	var output, file, bundle string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what podd needs of this host",
		Long: "Check what podd needs of this host, and podd itself if it runs: kernel, cgroups, network, containerd, disk, limits,\n" +
			"clock, the API and its certificates. Nothing is changed. Others than root may not look everywhere, and are told where.\n\n" +
			"The exit code is 1 if a check has failed. Warnings, and checks that were not made (skip), are no failure.",
		Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			if output != "" && output != "json" {
				cmdutil.CheckErr(fmt.Errorf("unknown output format %q: json is known", output))
			}
			ctx, stop := interruptible()
			defer stop()
			named := cmd.Flags().Changed("config")
			at, err := placeOf(file, named)
			cmdutil.CheckErr(err)
			if !named {
				at = p.placeAsked(ctx, at)
			}
			at.assumed = at.assumed && !named && bundle == ""
			if bundle != "" {
				at.Bundle = bundle
			}
			results := p.examine(ctx, at)
			p.client.mu.Lock()
			p.client.dialErr = nil // that podd is down is a result
			p.client.mu.Unlock()
			cmdutil.CheckErr(p.report(results, output))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or nothing for text")
	cmd.Flags().StringVar(&file, "config", "/etc/podd/config.yaml", "podd's configuration file, which says where its directories are; if it is not given, podd is asked first")
	cmd.Flags().StringVar(&bundle, "bundle", "", "directory of containerd, runc and the CNI plugins (default: as podd finds it)")
	return cmd
}

// placeAsked is where the podd that answers has its things, or else, if none does, what is assumed.
func (p *podctl) placeAsked(ctx context.Context, assumed place) place {
	if p.client.remote() { // that one may be on another host
		return assumed
	}
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	res, err := p.client.request(ctx, http.MethodGet, "/configz", nil, nil)
	if err != nil {
		assumed.assumed = errors.Is(err, fs.ErrPermission)
		return assumed
	}
	defer res.Body.Close()
	said := struct {
		Config place `json:"kubeletconfig"`
	}{assumed}
	if json.NewDecoder(res.Body).Decode(&said) != nil {
		return assumed
	}
	return said.Config
}

// placeOf reads podd's configuration. A file that was named must be there.
func placeOf(file string, named bool) (place, error) {
	at := place{Root: "/var/lib/podd", State: "/run/podd", ConfigDir: "/etc/podd", LogDir: "/var/log", Group: "podd", Bridge: "podd0"}
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !named, errors.Is(err, fs.ErrPermission) && !named:
	case err != nil:
		return at, err
	default:
		if err := yaml.Unmarshal(text, &at); err != nil {
			return at, fmt.Errorf("%s: %w", file, err)
		}
	}
	if at.Bundle == "" {
		at.Bundle = "/usr/local/libexec/podd"
		if self, err := os.Executable(); err == nil {
			beside := filepath.Dir(self)
			for _, dir := range []string{filepath.Join(filepath.Dir(beside), "libexec", "podd"), beside} {
				if _, err := os.Stat(filepath.Join(dir, "runc")); err == nil {
					at.Bundle = dir
					break
				}
			}
		}
	}
	return at, nil
}

// examine makes all checks. That of the API comes last: it waits for an answer.
func (p *podctl) examine(ctx context.Context, at place) []result {
	results := []result{
		kernel(), namespaces(), overlay(), seccomp(), cgroups("/proc/self/mountinfo"), modules("nf_tables", "nf_tables_newtable", "nftables", "host ports and the way out for pods"),
		modules("bridge", "br_dev_xmit", "bridge", "bridges of pods"), modules("veth", "veth_xmit", "veth", "the interfaces of pods"),
		forwarding(at), plugins(at.Bundle), binaries(ctx, at), containerd(at),
		disk("disk", at.Root), tmpfs(at.State), ram(), inotify(), processes(), clock(),
	}
	if !sameDisk(at.Root, at.LogDir) {
		results = append(results, disk("log disk", at.LogDir))
	}
	if len(at.Handlers) > 0 {
		results = append(results, runtimes(at.Handlers, at.Bundle))
	}
	if !p.client.remote() {
		results = append(results, socket(p.client.socket, at.Group))
	}
	results = append(results, p.api(ctx)...)
	for i, r := range results {
		if at.assumed && slices.Contains([]string{"CNI plugins", "binaries", "containerd", "runtimes"}, r.Name) && r.Level != ok {
			results[i] = result{r.Name, skip, "where podd has it only root and podd's group may ask", asRoot}
		}
	}
	return results
}

// asRoot is the advice for what may not be looked at.
const asRoot = "sudo podctl doctor"

// report prints the results, and is an error if one of them is a failure.
func (p *podctl) report(results []result, output string) error {
	failed, warned, skipped := 0, 0, 0
	for _, r := range results {
		switch r.Level {
		case bad:
			failed++
		case warn:
			warned++
		case skip:
			skipped++
		}
	}
	if output == "json" {
		text, err := json.MarshalIndent(map[string]any{"checks": results}, "", "  ")
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(p.shown.Out, string(text)); err != nil {
			return err
		}
	} else {
		var text strings.Builder
		for _, r := range results {
			fmt.Fprintf(&text, "%-4s  %-12s  %s\n", r.Level, r.Name, r.Detail)
			if r.Advice != "" && r.Advice != asRoot { // which is said once, at the end
				fmt.Fprintf(&text, "      %-12s  -> %s\n", "", strings.ReplaceAll(r.Advice, "\n", "\n"+strings.Repeat(" ", 23)))
			}
		}
		fmt.Fprintf(&text, "\n%d checks: %d failed, %d warnings", len(results), failed, warned)
		if skipped > 0 {
			fmt.Fprintf(&text, ", %d not made as they need root: %s", skipped, asRoot)
		}
		fmt.Fprintln(&text)
		if _, err := io.WriteString(p.shown.Out, text.String()); err != nil {
			return err
		}
	}
	if failed > 0 {
		return cmdutil.ErrExit
	}
	return nil
}
