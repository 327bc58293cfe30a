"""What a user's suite is: each mistake is found, with a diagram of it, and the program without it passes."""

from cached_programs import PROGRAMS, binds_late

from sansio_cache_testing import InterleavingError, check_interleavings

for program in PROGRAMS:
    try:
        check_interleavings(lambda world: program(world, is_right=False))  # noqa: B023 - called here
        raise SystemExit(f"nothing was found in {program.__name__}")
    except InterleavingError as found:
        print(found)
    most = 0 if program is binds_late else 1
    check_interleavings(lambda world: program(world, is_right=True), most_switches=most)  # noqa: B023
