"""The course as files to hand out: the learner's without solutions, the teacher's with what that one lacks."""
