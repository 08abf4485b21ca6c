package main

import "github.com/spf13/cobra"

func (p *podctl) doctor() *cobra.Command { return &cobra.Command{Use: "doctor"} }
