//go:build race

package manifest

const slow = 20 // the race detector's price
