# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Archives that are the same to the byte wherever they are built. What the package is, is said in setup.cfg."""

import gzip
import os
import tarfile

from setuptools import setup
from setuptools.command.sdist import sdist

os.environ.setdefault("SOURCE_DATE_EPOCH", "1577836800")  # the time of all files; setuptools writes it into wheels
os.umask(0o022)


class ReproducibleSdist(sdist):
    """setuptools would tell when, by whom and under which umask the archive was made."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        epoch = int(os.environ["SOURCE_DATE_EPOCH"])

        def anonymous(member):
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = epoch
            member.mode = 0o755 if member.isdir() else 0o644
            return member

        path = f"{base_name}.tar.gz"
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as compressed,
            tarfile.open(fileobj=compressed, mode="w") as archive,
        ):
            archive.add(base_dir, filter=anonymous)
        return path


setup(script_name="setup.py", cmdclass={"sdist": ReproducibleSdist})  # which keeps this file out of wheels
