package volumes

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	v1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
)

// ensureHugePages mounts an emptyDir of huge pages. The mount appears with its owner and mode: the kernel takes no
// set-group-ID bit among the options of a hugetlbfs, so it gets that before it is attached.
func ensureHugePages(dir int, pod *v1.Pod, vol *v1.Volume) error {
	page, err := pageSize(pod, vol.EmptyDir.Medium)
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(dir, vol.Name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	at, err := openBeneath(dir, vol.Name, 0)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if isHugetlbfs(dir, at) {
		return nil
	}
	fsys, err := hugetlbfs(page, hugePagesSize(pod, vol.EmptyDir, page), fsGroup(pod))
	if err != nil {
		return fmt.Errorf("mount hugetlbfs: %w", err)
	}
	defer unix.Close(fsys)
	if err := unix.MoveMount(fsys, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount hugetlbfs: %w", err)
	}
	return nil
}

// hugetlbfs is a mount that is attached nowhere yet, of pages of that size, for at most so many bytes.
func hugetlbfs(page, size int64, group int) (int, error) {
	if _, err := os.Stat(fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB", page>>10)); err != nil {
		return -1, fmt.Errorf("this kernel has no huge pages of %s", resource.NewQuantity(page, resource.BinarySI))
	}
	fsys, err := unix.Fsopen("hugetlbfs", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return -1, errors.New("this kernel has none")
	}
	if err != nil {
		return -1, err
	}
	defer unix.Close(fsys)
	options := [][2]string{{"pagesize", strconv.FormatInt(page, 10)}, {"size", strconv.FormatInt(size, 10)}, {"mode", "0777"}}
	if group >= 0 {
		options = append(options, [2]string{"gid", strconv.Itoa(group)})
	}
	for _, o := range options {
		if err := unix.FsconfigSetString(fsys, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("%s=%s: %w", o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fsys); err != nil {
		return -1, err
	}
	fd, err := unix.Fsmount(fsys, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Fchmodat(fd, ".", dirMode(group), 0); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// isHugetlbfs says whether sub is a hugetlbfs of its own.
func isHugetlbfs(dir, sub int) bool { return isOwn(unix.HUGETLBFS_MAGIC, dir, sub) }

// pageSize is the size of the pages of a volume, in bytes: the one that its medium names, or the only one that the pod
// asks for. The pod must ask for pages of it (upstream: getPageSizeMountOption in pkg/volume/emptydir, whose words these are).
func pageSize(pod *v1.Pod, medium v1.StorageMedium) (int64, error) {
	named := int64(0)
	if medium != v1.StorageMediumHugePages {
		size, err := v1helper.HugePageSizeFromMedium(medium)
		if err != nil {
			return 0, err
		}
		named = size.Value()
	}
	found := int64(0)
	for _, requests := range hugeRequests(pod) {
		for name := range requests {
			if !v1helper.IsHugePageResourceName(name) {
				continue
			}
			q, err := v1helper.HugePageSizeFromResourceName(name)
			if err != nil {
				return 0, err
			}
			size := q.Value()
			switch {
			case named == 0 && found != 0 && found != size:
				return 0, fmt.Errorf("medium: %s can't be used if container requests multiple huge page sizes", medium)
			case named == 0 || named == size:
				found = size
			}
		}
	}
	if found == 0 {
		return 0, fmt.Errorf("medium %s: hugePages storage requested, but there is no resource request for huge pages", medium)
	}
	return found, nil
}

// hugeRequests is what the pod and each of its containers ask for. Of huge pages limits are the same as requests.
func hugeRequests(pod *v1.Pod) (requests []v1.ResourceList) {
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		requests = append(requests, pod.Spec.Resources.Requests)
	}
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		requests = append(requests, c.Resources.Requests)
	}
	return requests
}

// hugePagesSize is how much a volume of such pages may hold, in bytes: the pod's limit, or the volume's if that is smaller.
// Upstream leaves it to the cgroup, which not every host has.
func hugePagesSize(pod *v1.Pod, e *v1.EmptyDirVolumeSource, page int64) (size int64) {
	for name, q := range resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if of, err := v1helper.HugePageSizeFromResourceName(name); err == nil && of.Value() == page {
			size += q.Value()
		}
	}
	if e.SizeLimit != nil && e.SizeLimit.Value() > 0 {
		size = min(size, e.SizeLimit.Value())
	}
	return size
}
