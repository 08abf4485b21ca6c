package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"sigs.k8s.io/yaml"
)

// version is set by the build (-X main.version=v1.2.3).
var version string

// release is the version, or the commit that a development build was made from.
func release() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return "devel-" + s.Value[:12]
			}
		}
	}
	return "devel"
}

// clientVersion is what kubectl says of itself, of podctl.
func clientVersion() apiversion.Info {
	v := apiversion.Info{GitVersion: release(), GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if parts := strings.SplitN(strings.TrimPrefix(v.GitVersion, "v"), ".", 3); len(parts) == 3 {
		v.Major, v.Minor = parts[0], parts[1]
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.GitCommit = s.Value
		case "vcs.modified":
			v.GitTreeState = map[string]string{"true": "dirty", "false": "clean"}[s.Value]
		case "vcs.time":
			v.BuildDate = s.Value
		}
	}
	return v
}

func (p *podctl) version() *cobra.Command {
	var onlyClient bool
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of podctl and of podd",
		Args:  cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			if output != "" && output != "json" && output != "yaml" {
				cmdutil.CheckErr(fmt.Errorf("unknown output format %q: json and yaml are known", output))
			}
			var said struct {
				Client apiversion.Info  `json:"clientVersion"`
				Server *apiversion.Info `json:"serverVersion,omitempty"`
			}
			said.Client = clientVersion()
			var err error
			if !onlyClient {
				said.Server, err = p.serverVersion()
			}
			switch output {
			case "json":
				b, bad := json.MarshalIndent(said, "", "  ")
				cmdutil.CheckErr(bad)
				fmt.Fprintln(p.shown.Out, string(b))
			case "yaml":
				b, bad := yaml.Marshal(said)
				cmdutil.CheckErr(bad)
				fmt.Fprint(p.shown.Out, string(b))
			default:
				fmt.Fprintln(p.shown.Out, "Client Version:", said.Client.GitVersion)
				if said.Server != nil {
					fmt.Fprintln(p.shown.Out, "Server Version:", said.Server.GitVersion)
				}
			}
			cmdutil.CheckErr(err)
		},
	}
	cmd.Flags().BoolVar(&onlyClient, "client", false, "do not ask podd")
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, yaml, or nothing for text")
	return cmd
}

func (p *podctl) serverVersion() (*apiversion.Info, error) {
	config, err := p.client.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	return d.ServerVersion()
}
