package main

import (
	"github.com/spf13/cobra"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

func (p *podctl) why(f cmdutil.Factory) *cobra.Command { return &cobra.Command{Use: "why POD"} }
