package main

import (
	"github.com/spf13/cobra"
	"k8s.io/kubectl/pkg/cmd/apiresources"
	"k8s.io/kubectl/pkg/cmd/delete"
	"k8s.io/kubectl/pkg/cmd/describe"
	"k8s.io/kubectl/pkg/cmd/events"
	"k8s.io/kubectl/pkg/cmd/explain"
	"k8s.io/kubectl/pkg/cmd/get"
	"k8s.io/kubectl/pkg/cmd/logs"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/cmd/wait"
	utilcomp "k8s.io/kubectl/pkg/util/completion"
)

// kubectl is the commands that are kubectl's, and those that podctl built on them.
func (p *podctl) kubectl() []*cobra.Command {
	f := cmdutil.NewFactory(cmdutil.NewMatchVersionFlags(&p.client))
	utilcomp.SetFactoryForCompletion(f)
	getCmd := get.NewCmdGet("podctl", f, p.shown)
	getCmd.ValidArgsFunction = utilcomp.ResourceTypeAndNameCompletionFunc(f)
	logsCmd := logs.NewCmdLogs(f, p.shown)
	cmdutil.CheckErr(logsCmd.RegisterFlagCompletionFunc("container", utilcomp.ContainerCompletionFunc(f)))
	return []*cobra.Command{
		p.apply(f),
		getCmd,
		describe.NewCmdDescribe("podctl", f, p.shown),
		logsCmd,
		p.exec(f),
		delete.NewCmdDelete(f, p.shown),
		events.NewCmdEvents(f, p.shown),
		wait.NewCmdWait(f, p.shown),
		apiresources.NewCmdAPIResources(f, p.shown),
		explain.NewCmdExplain("podctl", f, p.shown),
	}
}

// completeNamespaces completes --namespace.
func (p *podctl) completeNamespaces(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	f := cmdutil.NewFactory(&p.client)
	return utilcomp.CompGetResource(f, "namespace", typed), cobra.ShellCompDirectiveNoFileComp
}
