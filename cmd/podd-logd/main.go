// podd-logd writes the log files of all containers of a host. podd starts it; it outlives podd.
package main

func main() {}
