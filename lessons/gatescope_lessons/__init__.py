"""Lessons of Gatescope, and what builds, runs and judges them.

A lesson is a folder ``lNN_topic``: ``__init__.py`` declares its `lesson_kit.Lesson`, ``lesson.py`` is the one source of
both notebook editions, ``lab.py`` holds the experiment as plain functions, ``checks.py`` the exercise checks.
"""
