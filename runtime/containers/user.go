package containers

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

// maxID is the highest user or group id; ids above wrap to negative ones somewhere down the road.
const maxID = math.MaxInt32

// resolveUser says which ids the process gets: runAsUser and runAsGroup of the container, else of the pod, else the
// image's USER looked up in the image's own files, else root. The image's groups of that user are added (policy Merge).
func resolveUser(c Config) (specs.User, error) {
	sc := effective(c.Pod, c.Container)
	accounts, err := parseAccounts(c.Image)
	if err != nil {
		return specs.User{}, err
	}
	name, group, _ := strings.Cut(c.Image.Config.Config.User, ":")
	if sc.runAsUser != nil {
		if *sc.runAsUser < 0 || *sc.runAsUser > maxID {
			return specs.User{}, &ConfigError{fmt.Sprintf("runAsUser %d: must be between 0 and %d", *sc.runAsUser, maxID)}
		}
		name, group = strconv.FormatInt(*sc.runAsUser, 10), ""
	}
	if name == "" {
		name = "0"
	}
	u, err := accounts.user(name)
	if err != nil {
		return specs.User{}, err
	}
	if sc.runAsGroup != nil {
		group = strconv.FormatInt(*sc.runAsGroup, 10)
	}
	if group != "" {
		if u.Gid, err = accounts.group(group); err != nil {
			return specs.User{}, err
		}
	}
	if err := checkNonRoot(sc, c.Image.Config.Config.User, u.Uid); err != nil {
		return specs.User{}, err
	}
	out := specs.User{UID: uint32(u.Uid), GID: uint32(u.Gid)}
	out.AdditionalGids = []uint32{out.GID}
	if sc.policy != v1.SupplementalGroupsPolicyStrict {
		out.AdditionalGids = append(out.AdditionalGids, accounts.groupsOf(u.Name)...)
	}
	for _, g := range sc.groups {
		if g < 0 || g > maxID {
			return specs.User{}, &ConfigError{fmt.Sprintf("group %d: must be between 0 and %d", g, maxID)}
		}
		out.AdditionalGids = append(out.AdditionalGids, uint32(g))
	}
	out.AdditionalGids = unique(out.AdditionalGids)
	return out, nil
}

// checkNonRoot is the kubelet's rule (pkg/kubelet/kuberuntime/security_context.go): with runAsNonRoot, a uid of 0 is
// refused, and so is an image user that only the image itself says is not root.
func checkNonRoot(sc security, imageUser string, uid int) error {
	if !sc.runAsNonRoot {
		return nil
	}
	if sc.runAsUser != nil {
		if *sc.runAsUser == 0 {
			return &ConfigError{"runAsNonRoot is set, and runAsUser is 0"}
		}
		return nil
	}
	name, _, _ := strings.Cut(imageUser, ":")
	if name != "" {
		if _, numeric, _ := parseID(name); !numeric {
			return &ConfigError{fmt.Sprintf("runAsNonRoot is set, and the image's user %q is not numeric: cannot verify that it is not root", name)}
		}
	}
	if uid == 0 {
		return &ConfigError{"runAsNonRoot is set, and the image will run as root"}
	}
	return nil
}

// parseID reads a decimal id. numeric is false for anything that is not made of digits only: that is a name.
func parseID(s string) (id int, numeric bool, err error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > maxID {
		return 0, true, &ConfigError{fmt.Sprintf("id %s: must be between 0 and %d", s, maxID)}
	}
	return int(n), true, nil
}

// accounts is what an image says of users and groups.
type accounts struct {
	users  []user.User
	groups []user.Group
}

func parseAccounts(i Image) (accounts, error) {
	users, err := user.ParsePasswd(bytes.NewReader(i.Passwd))
	if err != nil {
		return accounts{}, &ConfigError{fmt.Sprintf("read /etc/passwd of %s: %v", i.Name, err)}
	}
	groups, err := user.ParseGroup(bytes.NewReader(i.Group))
	if err != nil {
		return accounts{}, &ConfigError{fmt.Sprintf("read /etc/group of %s: %v", i.Name, err)}
	}
	return accounts{users, groups}, nil
}

// user finds a name or a number. A number need not be known; its group is then 0, as in upstream.
func (a accounts) user(s string) (user.User, error) {
	id, numeric, err := parseID(s)
	if err != nil {
		return user.User{}, err
	}
	for _, u := range a.users {
		if numeric && u.Uid != id || !numeric && u.Name != s {
			continue
		}
		if u.Uid < 0 || u.Uid > maxID || u.Gid < 0 || u.Gid > maxID {
			return user.User{}, &ConfigError{fmt.Sprintf("user %q of the image has an id out of range", s)}
		}
		return u, nil
	}
	if numeric {
		return user.User{Uid: id}, nil
	}
	return user.User{}, &ConfigError{fmt.Sprintf("user %q is not in the image's /etc/passwd", s)}
}

// group finds the id of a name or a number.
func (a accounts) group(s string) (int, error) {
	id, numeric, err := parseID(s)
	if numeric || err != nil {
		return id, err
	}
	for _, g := range a.groups {
		if g.Name != s {
			continue
		}
		if g.Gid < 0 || g.Gid > maxID {
			return 0, &ConfigError{fmt.Sprintf("group %q of the image has an id out of range", s)}
		}
		return g.Gid, nil
	}
	return 0, &ConfigError{fmt.Sprintf("group %q is not in the image's /etc/group", s)}
}

// groupsOf is the groups that list a user as a member.
func (a accounts) groupsOf(name string) []uint32 {
	var out []uint32
	for _, g := range a.groups {
		if name != "" && slices.Contains(g.List, name) && g.Gid >= 0 && g.Gid <= maxID {
			out = append(out, uint32(g.Gid))
		}
	}
	return out
}

// unique keeps the first of each, in order.
func unique(in []uint32) []uint32 {
	var out []uint32
	for _, g := range in {
		if !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

// containerUser is a resolved user as the status shows it.
func containerUser(u specs.User) *v1.ContainerUser {
	l := &v1.LinuxContainerUser{UID: int64(u.UID), GID: int64(u.GID)}
	for _, g := range u.AdditionalGids {
		l.SupplementalGroups = append(l.SupplementalGroups, int64(g))
	}
	return &v1.ContainerUser{Linux: l}
}
