package main

import (
	"github.com/spf13/cobra"

	"podd/volumes"
)

// unmountName is the command by which podd has what other hosts serve unmounted, as a process that a dead server may hold.
const unmountName = "unmount-volumes"

func unmountCommand() *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use: unmountName + " PATH", Short: "Unmount everything at and below a path", Args: cobra.ExactArgs(1), Hidden: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil }, // no configuration is read
		RunE: func(cmd *cobra.Command, args []string) error {
			if force {
				return volumes.Force(args[0])
			}
			return volumes.Unmount(cmd.Context(), args[0])
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "only end the requests that wait for servers")
	return cmd
}
