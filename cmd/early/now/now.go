// Package now begins early's work for a command that imports it, before nearly all its other packages are initialised.
package now

import "podd/cmd/early"

func init() { early.Begin() }
